//! A gzip file whose contents are not compressed: what a profile's readers want, without the memory that compressing
//! takes. The command compresses.
//!
//! (RFC 1952 for the file, RFC 1951 for stored blocks.)

use crate::os::SystemError;

/// Bytes of a stored block: little, since it stands on the stack of whichever thread is asked.
const BLOCK: usize = 2048;
/// Magic, method, no name, no time, no hint, system unknown.
const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// The file that is being written.
pub(super) struct Gzip<'o> {
    out: &'o mut dyn FnMut(&[u8]) -> Result<(), SystemError>,
    block: [u8; BLOCK],
    used: usize,
    sum: u32,
    length: u32,
}

impl<'o> Gzip<'o> {
    /// Begins a file.
    ///
    /// # Errors
    /// Those of `out`, here and below.
    pub(super) fn begin(
        out: &'o mut dyn FnMut(&[u8]) -> Result<(), SystemError>,
    ) -> Result<Gzip<'o>, SystemError> {
        out(&HEAD)?;
        Ok(Gzip { out, block: [0; BLOCK], used: 0, sum: !0, length: 0 })
    }

    /// Writes contents.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), SystemError> {
        self.sum = bytes.iter().fold(self.sum, |sum, &byte| SUMS[(sum as u8 ^ byte) as usize] ^ sum >> 8);
        self.length = self.length.wrapping_add(bytes.len() as u32);
        while !bytes.is_empty() {
            if self.used == BLOCK {
                self.end_block(false)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.used));
            self.block[self.used..self.used + now.len()].copy_from_slice(now);
            self.used += now.len();
            bytes = later;
        }
        Ok(())
    }

    fn end_block(&mut self, last: bool) -> Result<(), SystemError> {
        let used = core::mem::take(&mut self.used);
        let [low, high] = (used as u16).to_le_bytes();
        (self.out)(&[last.into(), low, high, !low, !high])?;
        (self.out)(&self.block[..used])
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> Result<(), SystemError> {
        self.end_block(true)?;
        (self.out)(&(!self.sum).to_le_bytes())?;
        (self.out)(&self.length.to_le_bytes())
    }
}

/// The check sum of each byte.
static SUMS: [u32; 256] = {
    let mut sums = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        sums[byte] = sum;
        byte += 1;
    }
    sums
};

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// What `gzip` itself makes of the files.
    #[test]
    fn files_are_read_by_gzip() {
        for length in [0, 1, BLOCK, 3 * BLOCK + 17] {
            let contents: Vec<u8> = (0..length).map(|at| (at * at / 7) as u8).collect();
            let mut file = Vec::new();
            let mut out = |bytes: &[u8]| {
                file.extend_from_slice(bytes);
                Ok(())
            };
            let mut gzip = Gzip::begin(&mut out).unwrap();
            contents.chunks(1000).for_each(|chunk| gzip.write(chunk).unwrap());
            gzip.finish().unwrap();
            let mut child =
                Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut input = child.stdin.take().unwrap();
            let writer = std::thread::spawn(move || input.write_all(&file).unwrap());
            let output = child.wait_with_output().unwrap();
            writer.join().unwrap();
            assert!(output.status.success());
            assert_eq!(output.stdout, contents);
        }
    }
}
