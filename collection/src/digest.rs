//! Digests of bytes, files and JSON values.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Returns the sha256 of `bytes` as 64 lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

/// Returns length and sha256 of what is left to read of `file`.
pub(crate) fn sha256_of_file(file: &mut File) -> io::Result<(u64, String)> {
    let (mut hasher, mut n_bytes) = (Sha256::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((n_bytes, to_hex(&hasher.finalize()))),
            n => {
                hasher.update(&buffer[..n]);
                n_bytes += n as u64;
            }
        }
    }
}

/// Returns `value` as JSON without spaces and with the keys of every object sorted by their bytes, so that equal values give equal text.
pub fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            text.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                let comma = if i == 0 { "" } else { "," };
                write!(text, "{comma}{}:", Value::from(key.as_str()))
                    .expect("a string accepts every write");
                write_canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(values) => {
            text.push('[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                write_canonical(value, text);
            }
            text.push(']');
        }
        scalar => write!(text, "{scalar}").expect("a string accepts every write"),
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string accepts every write");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn canonical_json_sorts_keys_at_every_depth() {
        let value = json!({"b": [1, {"z": null, "a": "\"é\n"}], "a": true, "B": 1.5});
        assert_eq!(
            canonical_json(&value),
            r#"{"B":1.5,"a":true,"b":[1,{"a":"\"é\n","z":null}]}"#
        );
    }

    #[test]
    fn sha256_is_the_standard_one() {
        assert_eq!(
            sha256_hex(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
