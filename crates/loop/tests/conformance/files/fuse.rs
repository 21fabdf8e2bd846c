//! A file system of the tests' own, over `/dev/fuse`, with one file on a device that fails.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::JoinHandle;

use super::failing::Mounted;

const FILE: u64 = 2;
const PAGE: u64 = 4096;

/// Mounted while it lives: `file` has three pages, of which the first can be read, and nothing else can be done.
pub struct Broken {
    mounted: Option<Mounted>,
    server: Option<JoinHandle<()>>,
}

impl Broken {
    /// Mounts it, or skips the test where that is not possible.
    pub fn mount(at: &Path) -> Broken {
        let Ok(device) = File::options().read(true).write(true).open("/dev/fuse") else {
            towpath_harness::skip("there is no /dev/fuse, or not for us")
        };
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let mounted = Mounted::new("fuse", at, libc::MS_NOSUID | libc::MS_NODEV, &options);
        Broken { mounted: Some(mounted), server: Some(std::thread::spawn(move || serve(device))) }
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        // The device then tells the server that it is over.
        self.mounted = None;
        let server = self.server.take().expect("only here");
        if server.join().is_err() && !std::thread::panicking() {
            panic!("the file system failed, and not as it should");
        }
    }
}

/// Numbers as the kernel writes them, one after the other.
#[derive(Default)]
struct Words(Vec<u8>);

impl Words {
    fn u64(mut self, all: &[u64]) -> Words {
        all.iter().for_each(|word| self.0.extend(word.to_ne_bytes()));
        self
    }
    fn u32(mut self, all: &[u32]) -> Words {
        all.iter().for_each(|word| self.0.extend(word.to_ne_bytes()));
        self
    }
    /// `struct fuse_attr`.
    fn attributes(self, node: u64) -> Words {
        let (size, mode) = if node == FILE { (3 * PAGE, 0o100_666) } else { (0, 0o040_777) };
        self.u64(&[node, size, size / 512, 0, 0, 0]).u32(&[0, 0, 0, mode, 1, 0, 0, 0, PAGE as u32, 0])
    }
}

/// Answers the kernel until the file system is unmounted.
fn serve(mut device: File) {
    let mut buf = vec![0; 1 << 20];
    loop {
        let n = match device.read(&mut buf) {
            Ok(n) => n,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::ENOENT)) => continue,
            Err(error) => panic!("/dev/fuse: {error}"),
        };
        let request = &buf[..n];
        let u32_at = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_ne_bytes(request[at..at + 8].try_into().expect("eight bytes"));
        // `struct fuse_in_header`: 40 bytes.
        let (opcode, unique, node) = (u32_at(4), u64_at(8), u64_at(16));
        let answer = match opcode {
            // LOOKUP: `struct fuse_entry_out`. The name ends with a NUL.
            1 if &request[40..] == b"file\0" => {
                Ok(Words::default().u64(&[FILE, 0, 0, 0]).u32(&[0, 0]).attributes(FILE))
            }
            1 => Err(libc::ENOENT),
            // FORGET, INTERRUPT, BATCH_FORGET: no answer is expected.
            2 | 36 | 42 => continue,
            // GETATTR.
            3 => Ok(Words::default().u64(&[0]).u32(&[0, 0]).attributes(node)),
            // OPEN, OPENDIR: past the page cache (`FOPEN_DIRECT_IO`).
            14 | 27 => Ok(Words::default().u64(&[0]).u32(&[1, 0])),
            // READ: the offset is the second word of `struct fuse_read_in`.
            15 if u64_at(48) < PAGE => {
                Ok(Words(vec![7; (PAGE - u64_at(48)).min(u32_at(56).into()) as usize]))
            }
            // RELEASE, RELEASEDIR.
            18 | 29 => Ok(Words::default()),
            // INIT: version 7.31, and nothing of what could be asked for.
            26 => Ok(Words::default().u32(&[7, 31, 0, 0, 0, 1 << 16, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            _ => Err(libc::EIO),
        };
        let (error, body) = match answer {
            Ok(Words(body)) => (0, body),
            Err(errno) => (-errno, Vec::new()),
        };
        // `struct fuse_out_header`: 16 bytes.
        let Words(mut reply) = Words::default().u32(&[16 + body.len() as u32, error as u32]).u64(&[unique]);
        reply.extend(body);
        // Who asked may have been interrupted, and be gone.
        let _ = device.write(&reply);
    }
}
