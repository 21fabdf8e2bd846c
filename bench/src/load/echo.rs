//! What an echo is asked: messages that no other message resembles.

use super::closed::Exchange;

pub struct Echo {
    /// A multiple of 8.
    pub size: usize,
}

/// The words of message `number` of a connection. They cost next to nothing to make, so that making them again is how
/// an answer is verified.
fn words(connection: usize, number: u64) -> impl Fn(usize) -> u64 {
    // Odd factors lose nothing: other numbers have other words.
    let first = ((connection as u64) << 44 ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    move |index| first.wrapping_add((index as u64).wrapping_mul(0xD1B5_4A32_D192_ED03))
}

/// Appends a message.
pub fn write(connection: usize, number: u64, size: usize, out: &mut Vec<u8>) {
    let word = words(connection, number);
    let start = out.len();
    out.resize(start + size, 0);
    for (index, chunk) in out[start..].as_chunks_mut().0.iter_mut().enumerate() {
        *chunk = word(index).to_le_bytes();
    }
}

/// Whether `bytes` are that message.
pub fn verify(connection: usize, number: u64, bytes: &[u8]) -> bool {
    let word = words(connection, number);
    let (chunks, rest) = bytes.as_chunks();
    // Without a branch for each word, so that the compiler can take several at a time.
    let differ = chunks
        .iter()
        .enumerate()
        .fold(0, |differ, (index, chunk)| differ | (u64::from_le_bytes(*chunk) ^ word(index)));
    differ == 0 && rest.is_empty()
}

impl Exchange for Echo {
    fn request(&self, connection: usize, number: u64, out: &mut Vec<u8>) {
        write(connection, number, self.size, out);
    }

    fn answer_len(&self) -> usize {
        self.size
    }

    fn verify(&self, connection: usize, number: u64, answer: &[u8]) -> bool {
        verify(connection, number, answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_corrupted_byte_shows() {
        let mut message = Vec::new();
        write(3, 77, 4096, &mut message);
        assert_eq!(message.len(), 4096);
        assert!(verify(3, 77, &message));
        assert!(!verify(3, 78, &message));
        assert!(!verify(4, 77, &message));
        for at in [0, 1, 63, 2048, 4095] {
            message[at] ^= 1;
            assert!(!verify(3, 77, &message), "byte {at}");
            message[at] ^= 1;
        }
        message.rotate_left(8);
        assert!(!verify(3, 77, &message));
    }
}
