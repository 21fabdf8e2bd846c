//! What an HTTP server is asked.

use towpath_bench_serve::protocol::RESPONSE;

use super::closed::Exchange;

const REQUEST: &[u8] =
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: towpath-bench\r\nAccept: */*\r\n\r\n";

pub struct Http;

impl Exchange for Http {
    fn request(&self, _connection: usize, _number: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(REQUEST);
    }

    fn answer_len(&self) -> usize {
        RESPONSE.len()
    }

    fn verify(&self, _connection: usize, _number: u64, answer: &[u8]) -> bool {
        answer == RESPONSE
    }
}
