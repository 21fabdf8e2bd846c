//! Unwinding a copy of a stack by copies of the tables that the linker made for panics.

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::slice;

use framehop::{CacheNative, ExplicitModuleSectionInfo, Module, Unwinder, UnwinderNative};

use super::signal::Picture;

/// More frames than anybody reads.
const FRAMES_MAX: usize = 512;

/// The addresses of the frames, innermost first.
pub(super) fn unwind(picture: &Picture) -> Vec<usize> {
    let mut unwinder = UnwinderNative::<Vec<u8>, _>::new();
    modules(&mut |module| unwinder.add_module(module));
    let mut cache = CacheNative::new();
    let mut read = |address: u64| {
        let offset = address.checked_sub(picture.sp).ok_or(())?;
        let index = usize::try_from(offset / 8).map_err(drop)?;
        if offset % 8 == 0 { picture.stack.get(index).copied().ok_or(()) } else { Err(()) }
    };
    #[cfg(target_arch = "x86_64")]
    let registers = framehop::x86_64::UnwindRegsX86_64::new(picture.ip, picture.sp, picture.fp);
    #[cfg(target_arch = "aarch64")]
    let registers = framehop::aarch64::UnwindRegsAarch64::new(picture.lr, picture.sp, picture.fp);
    let mut frames = unwinder.iter_frames(picture.ip, registers, &mut cache, &mut read);
    let mut addresses = Vec::new();
    // An error is the end of what can be told.
    while let Ok(Some(frame)) = frames.next()
        && addresses.len() < FRAMES_MAX
    {
        // Of the frame that was interrupted the instruction itself: as return addresses are, one further.
        let is_return_address = !addresses.is_empty();
        addresses.push(frame.address() as usize + usize::from(!is_return_address));
    }
    addresses
}

/// Calls `add` with each loaded object's unwind tables. They are copied under the dynamic linker's lock, so that an object
/// that is unloaded meanwhile, or later, does not matter.
fn modules(add: &mut dyn FnMut(Module<Vec<u8>>)) {
    let mut add = add;
    // SAFETY: `each` has the signature, and is called with `data` before this returns.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut add).cast()) };
}

/// # Safety
/// Called by `dl_iterate_phdr`, with the pointer to a `&mut dyn FnMut(Module<Vec<u8>>)`.
unsafe extern "C" fn each(info: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
    // SAFETY: the caller's promise.
    let (info, add) = unsafe { (&*info, &mut *data.cast::<&mut dyn FnMut(Module<Vec<u8>>)>()) };
    if let Some(module) = module(info) {
        add(module);
    }
    0
}

/// The tables of one object, if it has any.
fn module(info: &libc::dl_phdr_info) -> Option<Module<Vec<u8>>> {
    // SAFETY: the linker's array, of that length, which stays while it calls us.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let range = |header: &libc::Elf64_Phdr| header.p_vaddr..header.p_vaddr + header.p_memsz;
    let loads = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let header_range = range(headers.iter().find(|header| header.p_type == libc::PT_GNU_EH_FRAME)?);
    let bytes = |range: &Range<u64>| -> Vec<u8> {
        let start = (info.dlpi_addr + range.start) as usize;
        // SAFETY: inside a readable segment of a loaded object (checked below, or the linker's word), which the linker does
        // not unmap while it calls us, and nobody writes to unwind tables.
        unsafe {
            slice::from_raw_parts(
                std::ptr::with_exposed_provenance(start),
                (range.end - range.start) as usize,
            )
        }
        .to_vec()
    };
    let header = bytes(&header_range);
    // Version 1, and the pointer to `.eh_frame` as four bytes from where it stands, which all linkers write.
    let &[1, 0x1b, _, _, a, b, c, d, ..] = &header[..] else { return None };
    let start = (header_range.start + 4).checked_add_signed(i32::from_ne_bytes([a, b, c, d]).into())?;
    // Where it ends is not said, but by an entry of length 0 at the latest.
    let end =
        loads().filter(|load| load.p_flags & libc::PF_R != 0).map(range).find(|r| r.contains(&start))?.end;
    let frames = start..end;
    let whole = loads().map(range).reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))?;
    let sections = ExplicitModuleSectionInfo {
        base_svma: 0,
        eh_frame: Some(bytes(&frames)),
        eh_frame_svma: Some(frames),
        eh_frame_hdr: Some(header),
        eh_frame_hdr_svma: Some(header_range),
        ..Default::default()
    };
    let addresses = info.dlpi_addr + whole.start..info.dlpi_addr + whole.end;
    Some(Module::new(String::new(), addresses, info.dlpi_addr, sections))
}
