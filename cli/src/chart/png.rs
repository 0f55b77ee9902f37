//! PNG (ISO/IEC 15948), as little of it as a plot needs: 8 bits of red, green and blue, rows as they are.

use std::io::Write;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};
use tiny_skia::Pixmap;

/// The bytes of a file, of a picture in which nothing is transparent.
pub fn encode(pixels: &Pixmap) -> Vec<u8> {
    let mut rows = ZlibEncoder::new(Vec::new(), Compression::default());
    let mut write = |bytes: &[u8]| rows.write_all(bytes).expect("a vector takes all bytes");
    for row in pixels.pixels().chunks(pixels.width() as usize) {
        write(&[0]); // no filter
        for pixel in row {
            write(&[pixel.red(), pixel.green(), pixel.blue()]);
        }
    }
    let rows = rows.finish().expect("a vector takes all bytes");

    let mut header = Vec::new();
    header.extend(pixels.width().to_be_bytes());
    header.extend(pixels.height().to_be_bytes());
    header.extend([8, 2, 0, 0, 0]); // bits, RGB; the one compression and the one set of filters there are; not interlaced

    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", header), (b"IDAT", rows), (b"IEND", Vec::new())] {
        png.extend((data.len() as u32).to_be_bytes());
        png.extend(kind);
        png.extend(&data);
        let mut sum = Crc::new();
        sum.update(kind);
        sum.update(&data);
        png.extend(sum.sum().to_be_bytes());
    }
    png
}
