//! io_uring by hand: the floor of random reads, without tasks.

use std::os::fd::AsRawFd;

use io_uring::{IoUring, SubmissionQueue, opcode, squeue, types};

use crate::Options;
use crate::files::{self, PAGE, Pages, READS};
use crate::measure::{Meter, Outcome};

pub fn run(options: &Options) -> Outcome {
    let file = files::open(options).expect("the system has room for the file");
    let depth = files::depth(options);
    let mut pages = Pages::new(files::size(options).0, 1);
    let mut reads = vec![(0, [0; PAGE]); depth as usize];
    let mut ring = IoUring::new(depth as u32).expect("io_uring was looked for");
    ring.submitter().register_files(&[file.as_raw_fd()]).expect("a file can be registered");

    let (submitter, mut queue, mut done) = ring.split();

    let mut meter = Meter::new(options);
    while meter.more() {
        for index in 0..depth {
            push(&mut queue, index, &mut reads[index as usize], &mut pages);
        }
        let (mut begun, mut ended, mut ok) = (depth, 0, true);
        while ended < READS {
            queue.sync();
            submitter.submit_and_wait(1).expect("a ring takes what fits");
            // Tells that the kernel has taken its entries.
            queue.sync();
            done.sync();
            for entry in &mut done {
                let read = &mut reads[entry.user_data() as usize];
                ok &= entry.result() == PAGE as i32 && files::is_right(&read.1, read.0);
                ended += 1;
                if begun < READS {
                    push(&mut queue, entry.user_data(), read, &mut pages);
                    begun += 1;
                }
            }
        }
        meter.count(READS, ok);
    }
    meter.outcome()
}

/// Puts a read of a random page into the queue. `read` is the place of it and its buffer, and `index` tells it.
fn push(queue: &mut SubmissionQueue<'_>, index: u64, read: &mut (u64, [u8; PAGE]), pages: &mut Pages) {
    read.0 = pages.next();
    let entry: squeue::Entry =
        opcode::Read::new(types::Fixed(0), read.1.as_mut_ptr(), PAGE as u32).offset(read.0).build();
    // SAFETY: a round waits for all that it has begun, only then may the buffers go; none is read into twice at once.
    unsafe { queue.push(&entry.user_data(index)) }.expect("as many entries as reads");
}
