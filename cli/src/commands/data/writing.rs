use std::io::{self, BufWriter, Write};
use std::path::Path;

use anyhow::Context;

use crate::interrupt::{self, UntilStopped};

/// Writes a file under a temporary name first; `.gz` and `.zst` at the end of its name compress it. Ctrl-C leaves neither behind.
pub fn write_lines<T>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> anyhow::Result<T> {
    let stopped = interrupt::flag()?;
    let write = |writer: &mut dyn Write| write(&mut UntilStopped::new(writer, stopped));
    write_file(path, write).with_context(|| format!("cannot write `{}`", path.display()))
}

/// As [`write_lines`], of what is read meanwhile: `fault` tells errors of the file from others, of which it is not said that
/// the file cannot be written.
pub fn write_lines_of<T, E, F: Into<anyhow::Error>>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<T, E>,
    fault: impl FnOnce(E) -> Result<io::Error, F>,
) -> anyhow::Result<T> {
    let mut other = None;
    let written = write_lines(path, |writer| {
        write(writer).map_err(|error| {
            fault(error).unwrap_or_else(|error| {
                other = Some(error);
                io::ErrorKind::InvalidData.into()
            })
        })
    });
    match other {
        Some(other) => Err(other.into()),
        None => written,
    }
}

fn write_file<T>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<T>,
) -> io::Result<T> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o644));
    }
    let file = builder.prefix(".train").tempfile_in(folder)?;
    let mut buffer = BufWriter::new(file);
    let written = match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => {
            let mut encoder =
                flate2::write::GzEncoder::new(&mut buffer, flate2::Compression::default());
            let written = write(&mut encoder)?;
            encoder.finish()?;
            written
        }
        Some("zst") => {
            let mut encoder = zstd::stream::write::Encoder::new(&mut buffer, 0)?;
            let written = write(&mut encoder)?;
            encoder.finish()?;
            written
        }
        _ => write(&mut buffer)?,
    };
    let file = buffer
        .into_inner()
        .map_err(io::IntoInnerError::into_error)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(written)
}
