//! Datagrams: one multishot receive, and a send for each that it brings.

use std::mem;
use std::os::fd::AsRawFd;

use io_uring::types::{Fd, RecvMsgOut};
use io_uring::{cqueue, opcode};

use super::buffers::{Buffers, GROUP};
use super::{push, ring, wait};
use crate::{Serving, sockets};

/// The `user_data` of the receive; that of a send is the number of its buffer.
const RECEIVE: u64 = u64::MAX;

pub fn run() -> Serving {
    let socket = sockets::datagram()?;
    let fd = Fd(socket.as_raw_fd());
    let mut ring = ring()?;
    let (submitter, mut sq, mut cq) = ring.split();
    let mut buffers = Buffers::register(&submitter, 256)?;
    // SAFETY: all-zero bytes are a valid `msghdr`: null pointers and lengths of zero.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_namelen = size_of::<libc::sockaddr_in>() as u32;
    let receive = opcode::RecvMsgMulti::new(fd, &header, GROUP).build().user_data(RECEIVE);
    let mut receiving = false;
    loop {
        if !receiving && buffers.any() {
            // SAFETY: the header stays where it is.
            unsafe { push(&submitter, &mut sq, &receive) }?;
            receiving = true;
        }
        wait(&submitter, &mut sq)?;
        cq.sync();
        for completion in &mut cq {
            if completion.user_data() != RECEIVE {
                // Datagrams may be lost.
                buffers.give(completion.user_data() as u16);
                continue;
            }
            receiving = cqueue::more(completion.flags());
            let Some(id) = cqueue::buffer_select(completion.flags()) else { continue };
            let data = buffers.take(id, completion.result().max(0) as usize);
            // SAFETY: the buffer is ours until it is given back.
            let Ok(datagram) = RecvMsgOut::parse(unsafe { &*data }, &header) else {
                buffers.give(id);
                continue;
            };
            let (name, payload) = (datagram.name_data(), datagram.payload_data());
            let send = opcode::Send::new(fd, payload.as_ptr(), payload.len() as u32)
                .dest_addr(name.as_ptr().cast())
                .dest_addr_len(name.len() as u32);
            // SAFETY: both are in the buffer, which is given back after it was sent.
            unsafe { push(&submitter, &mut sq, &send.build().user_data(id.into())) }?;
        }
    }
}
