//! Vectors to measure with, and the time that it takes.

use std::error::Error;

/// Uniform in −1 to 1 (xorshift64*).
pub fn uniform(seed: &mut u64) -> f32 {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / (1 << 23) as f32 - 1.0
}

/// The width and the values of a NumPy file of rows of `f32`.
pub fn read_npy(path: &str) -> Result<(usize, Vec<f32>), Box<dyn Error>> {
    let bytes = std::fs::read(path)?;
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let shape = String::from_utf8_lossy(&bytes[10..header]).into_owned();
    let width = shape
        .split("'shape': (")
        .nth(1)
        .and_then(|shape| shape.split([',', ')']).nth(1));
    let width = width.ok_or("no shape")?.trim().parse()?;
    let values = bytes[header..]
        .as_chunks::<4>()
        .0
        .iter()
        .map(|&bytes| f32::from_le_bytes(bytes));
    Ok((width, values.collect()))
}

/// Processor time of this thread so far, where Linux tells.
pub fn cpu_seconds() -> f64 {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = times
        .split(' ')
        .next()
        .and_then(|time| time.parse::<f64>().ok());
    nanoseconds.unwrap_or(f64::NAN) / 1e9
}
