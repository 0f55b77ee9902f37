//! TensorBoard's event files: records with checksums around a few fields of protobuf.
//!
//! A record is `length: u64, masked crc of the length: u32, bytes, masked crc of the bytes: u32`, little-endian; the crc
//! is CRC-32C (Castagnoli), masked as `rotate_right(crc, 15) + 0xa282ead8`. The bytes are an `Event`:
//! `1 wall_time: double, 2 step: int64, 3 file_version: string, 5 summary, 7 session_log`; a `Summary` repeats
//! `1 value {1 tag: string, 2 simple_value: float}`.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A file that TensorBoard reads while it grows.
pub struct EventFile(File);

impl EventFile {
    /// Starts a file. Where a run goes on after `resumed` steps, TensorBoard drops what earlier files say of later ones.
    pub fn create(folder: &Path, resumed: Option<u64>) -> io::Result<Self> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let name = format!(
            "events.out.tfevents.{:010}.trawl.{}.{}",
            now.as_secs(),
            std::process::id(),
            now.subsec_nanos()
        );
        let mut file = Self(File::create_new(folder.join(name))?);
        file.event(0, |event| bytes_field(event, 3, b"brain.Event:2"))?;
        if let Some(step) = resumed {
            const START: u64 = 1;
            file.event(step + 1, |event| {
                let mut log = Vec::new();
                varint_field(&mut log, 1, START);
                bytes_field(event, 7, &log);
            })?;
        }
        Ok(file)
    }

    /// Appends the values of a step.
    pub fn scalars<'a>(
        &mut self,
        step: u64,
        values: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut entry = Vec::new();
            bytes_field(&mut entry, 1, tag.as_bytes());
            entry.push(2 << 3 | 5);
            entry.extend((value as f32).to_le_bytes());
            bytes_field(&mut summary, 1, &entry);
        }
        self.event(step, |event| bytes_field(event, 5, &summary))
    }

    fn event(&mut self, step: u64, content: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut event = vec![1 << 3 | 1];
        event.extend(now.as_secs_f64().to_le_bytes());
        varint_field(&mut event, 2, step);
        content(&mut event);
        let length = (event.len() as u64).to_le_bytes();
        let mut record = length.to_vec();
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(&event);
        record.extend(masked_crc(&event).to_le_bytes());
        self.0.write_all(&record)
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_field(out: &mut Vec<u8>, field: u64, value: u64) {
    varint(out, field << 3);
    varint(out, value);
}

fn bytes_field(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C, bit by bit: a record has a few hundred bytes.
fn crc32c(bytes: &[u8]) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0x82f6_3b78;
    let step = |crc: u32| (crc >> 1) ^ if crc & 1 == 1 { REVERSED_POLYNOMIAL } else { 0 };
    !bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wire fields of a message: number and value, bytes for what has a length.
    fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        fn number(bytes: &mut &[u8]) -> u64 {
            let (mut value, mut shift) = (0, 0);
            loop {
                let (&byte, rest) = bytes.split_first().expect("a varint ends");
                *bytes = rest;
                value |= u64::from(byte & 0x7f) << shift;
                shift += 7;
                if byte < 0x80 {
                    return value;
                }
            }
        }
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let key = number(&mut bytes);
            let length = match key & 7 {
                0 => {
                    found.push((key >> 3, number(&mut bytes).to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                5 => 4,
                _ => number(&mut bytes) as usize,
            };
            let (value, rest) = bytes.split_at(length);
            found.push((key >> 3, value.to_vec()));
            bytes = rest;
        }
        found
    }

    /// The events of a file, checksums checked.
    fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let (header, rest) = bytes.split_at(12);
            let length = u64::from_le_bytes(header[..8].try_into().expect("8 bytes")) as usize;
            assert_eq!(header[8..], masked_crc(&header[..8]).to_le_bytes());
            let (event, rest) = rest.split_at(length);
            let (crc, rest) = rest.split_at(4);
            assert_eq!(crc, masked_crc(event).to_le_bytes());
            found.push(event.to_vec());
            bytes = rest;
        }
        found
    }

    #[test]
    fn checksums_are_those_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = EventFile::create(folder.path(), Some(300)).expect("a file");
        file.scalars(301, [("train/loss", 0.5), ("train/lr", 2e-5)])
            .expect("written");
        let path = std::fs::read_dir(folder.path()).expect("a folder").next();
        let path = path.expect("a file").expect("a file").path();
        let events = records(&std::fs::read(path).expect("a file"));
        assert_eq!(events.len(), 3);
        assert_eq!(fields(&events[0])[2], (3, b"brain.Event:2".to_vec()));
        assert_eq!(fields(&events[1])[2].0, 7);
        let event = fields(&events[2]);
        assert_eq!(event[1], (2, 301u64.to_le_bytes().to_vec()));
        let values: Vec<_> = fields(&event[2].1)
            .into_iter()
            .map(|(_, value)| fields(&value))
            .collect();
        assert_eq!(
            values[0],
            [
                (1, b"train/loss".to_vec()),
                (2, 0.5f32.to_le_bytes().to_vec())
            ]
        );
        assert_eq!(
            values[1],
            [
                (1, b"train/lr".to_vec()),
                (2, 2e-5f32.to_le_bytes().to_vec())
            ]
        );
    }
}
