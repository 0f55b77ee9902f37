use std::io::{self, ErrorKind, Read, Write};

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Reduce,
    Gather,
    Broadcast,
    /// The sender is there; nothing else.
    Alive,
    /// Rank 0 ends the run; the reason in UTF-8.
    End,
}

/// Kind, bytes of the payload, payload.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) payload: Vec<u8>,
}

/// Memory that a header alone may ask for.
const TRUSTED_BYTES: usize = 1 << 20;

impl Frame {
    pub(super) fn read(reader: &mut impl Read) -> io::Result<Self> {
        let mut header = [0; 5];
        reader.read_exact(&mut header)?;
        let [kind, length @ ..] = header;
        let kind = match kind {
            0 => Kind::Reduce,
            1 => Kind::Gather,
            2 => Kind::Broadcast,
            3 => Kind::Alive,
            4 => Kind::End,
            _ => return Err(ErrorKind::InvalidData.into()),
        };
        let length = u32::from_le_bytes(length);
        let mut payload = Vec::with_capacity(TRUSTED_BYTES.min(length as usize));
        reader.take(length.into()).read_to_end(&mut payload)?;
        if payload.len() < length as usize {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(Self { kind, payload })
    }

    pub(super) fn write(writer: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let too_long = |_| io::Error::new(ErrorKind::InvalidInput, "a message has 4 GiB");
        let length = u32::try_from(payload.len()).map_err(too_long)?;
        let [a, b, c, d] = length.to_le_bytes();
        writer.write_all(&[kind as u8, a, b, c, d])?;
        writer.write_all(payload)?;
        writer.flush()
    }
}

pub(super) fn bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// None when the bytes are no whole number of values.
pub(super) fn floats(bytes: &[u8]) -> Option<Vec<f32>> {
    let (values, rest) = bytes.as_chunks::<4>();
    let values = || values.iter().map(|&value| f32::from_le_bytes(value));
    rest.is_empty().then(|| values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_broken_ones_are_refused() {
        let payload = bytes(&[1.5, -0.0, f32::MIN_POSITIVE]);
        let mut written = Vec::new();
        Frame::write(&mut written, Kind::Gather, &payload).expect("memory");
        let frame = Frame::read(&mut &written[..]).expect("a frame");
        assert_eq!((frame.kind, &frame.payload), (Kind::Gather, &payload));
        assert_eq!(floats(&payload[1..]), None);
        for length in 0..written.len() {
            let error = Frame::read(&mut &written[..length]).expect_err("it breaks off");
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{length}");
        }
        written[0] = 9;
        let error = Frame::read(&mut &written[..]).expect_err("no such kind");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        let error = Frame::read(&mut &[0, 255, 255, 255, 255, 1][..]).expect_err("4 GiB");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}
