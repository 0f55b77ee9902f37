//! Token ids from a folder that the datasets library saved.
//!
//! Such a folder holds Arrow streams: messages of a flatbuffer and a body, the first a schema, the others batches of
//! rows. One shape is read, a column of lists of integers, which is a hundredth of what the arrow crates read and link.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::DataError;

/// Begins every message of a stream.
const CONTINUATION: u32 = 0xffff_ffff;
/// Begins a file that has a stream inside.
const FILE_MAGIC: &[u8; 6] = b"ARROW1";
/// Longest description of a message.
const MAX_METADATA: usize = 64 << 20;
/// Deepest nesting of columns.
const MAX_DEPTH: usize = 16;
/// Most columns, nested ones included.
const MAX_COLUMNS: usize = 10_000;

// Kinds of message and of type, as the format numbers them.
const SCHEMA: u8 = 1;
const RECORD_BATCH: u8 = 3;
const INT: u8 = 2;
const LIST: u8 = 12;
const LARGE_LIST: u8 = 21;

#[derive(Deserialize)]
struct State {
    #[serde(rename = "_data_files")]
    data_files: Vec<DataFile>,
}

#[derive(Deserialize)]
struct DataFile {
    filename: String,
}

/// Gives every row of a column of integer lists to `each`, in order.
pub(super) fn for_each_row(
    folder: &Path,
    column: &str,
    each: &mut dyn FnMut(Vec<u32>) -> Result<(), DataError>,
) -> Result<(), DataError> {
    for path in data_files(folder)? {
        let mut stream = Stream::open(&path)?;
        while let Some(rows) = stream.next_batch(column)? {
            rows.into_iter().try_for_each(&mut *each)?;
        }
    }
    Ok(())
}

/// The streams of a folder in the order of `state.json`.
fn data_files(folder: &Path) -> Result<Vec<PathBuf>, DataError> {
    let path = folder.join("state.json");
    let bytes = std::fs::read(&path).map_err(|source| DataError::Read {
        path: path.clone(),
        source,
    })?;
    let state: State = serde_json::from_slice(&bytes).map_err(|error| DataError::Folder {
        path,
        reason: error.to_string(),
    })?;
    let inside = |file: DataFile| -> Result<PathBuf, DataError> {
        // A name, not a path that leads out of the folder.
        match Path::new(&file.filename).file_name() {
            Some(name) => Ok(folder.join(name)),
            None => Err(DataError::Folder {
                path: folder.to_owned(),
                reason: format!("`{}` is no file name", file.filename),
            }),
        }
    };
    state.data_files.into_iter().map(inside).collect()
}

struct Stream {
    path: PathBuf,
    reader: BufReader<File>,
    /// Bytes that the file still has.
    n_left: u64,
    layout: Option<Layout>,
    n_rows: u64,
}

/// Where the column's buffers stand in a batch.
#[derive(Clone, Copy)]
struct Layout {
    first_node: usize,
    first_buffer: usize,
    has_large_offsets: bool,
    value_bytes: usize,
    is_signed: bool,
}

/// Whatever a damaged file lacks.
type Found<T> = Result<T, String>;

impl Stream {
    fn open(path: &Path) -> Result<Self, DataError> {
        let failed = |source| DataError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(failed)?;
        let n_left = file.metadata().map_err(failed)?.len();
        let mut stream = Self {
            path: path.to_owned(),
            reader: BufReader::new(file),
            n_left,
            layout: None,
            n_rows: 0,
        };
        let head = stream.take(4)?;
        if head == FILE_MAGIC[..4] {
            stream.take(4)?;
        } else {
            // The first message begins here.
            stream.reader.seek_relative(-4).map_err(failed)?;
            stream.n_left += 4;
        }
        Ok(stream)
    }

    /// Reads messages up to the next batch of rows; none at the end of the stream.
    fn next_batch(&mut self, column: &str) -> Result<Option<Vec<Vec<u32>>>, DataError> {
        loop {
            if self.n_left == 0 {
                return Ok(None);
            }
            let continuation = self.word()?;
            let n_metadata = self.word()? as usize;
            if continuation != CONTINUATION || n_metadata > MAX_METADATA {
                return Err(self.damaged("no message where one must begin"));
            }
            if n_metadata == 0 {
                return Ok(None);
            }
            let metadata = self.take(n_metadata)?;
            let message = Message::read(&metadata).map_err(|reason| self.damaged(&reason))?;
            let body = self.take(message.n_body)?;
            match (message.kind, self.layout) {
                (SCHEMA, None) => {
                    let layout = find_column(&message.header, column);
                    self.layout = Some(layout.map_err(|reason| self.damaged(&reason))?);
                }
                (RECORD_BATCH, Some(layout)) => {
                    let rows = read_rows(&message.header, &body, layout);
                    let rows = rows.map_err(|reason| self.damaged(&reason))?;
                    self.n_rows += rows.len() as u64;
                    return Ok(Some(rows));
                }
                // Dictionaries belong to other columns.
                (_, Some(_)) => {}
                (_, None) => return Err(self.damaged("no schema before the first rows")),
            }
        }
    }

    fn word(&mut self) -> Result<u32, DataError> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn take(&mut self, n_bytes: usize) -> Result<Vec<u8>, DataError> {
        // A damaged length must not become an allocation.
        if n_bytes as u64 > self.n_left {
            return Err(self.damaged("it ends too early"));
        }
        let mut bytes = vec![0; n_bytes];
        let read = self.reader.read_exact(&mut bytes);
        read.map_err(|source| DataError::Read {
            path: self.path.clone(),
            source,
        })?;
        self.n_left -= n_bytes as u64;
        Ok(bytes)
    }

    fn damaged(&self, reason: &str) -> DataError {
        DataError::Folder {
            path: self.path.clone(),
            reason: format!("{reason} (after row {})", self.n_rows),
        }
    }
}

struct Message<'a> {
    kind: u8,
    header: Table<'a>,
    n_body: usize,
}

impl<'a> Message<'a> {
    fn read(metadata: &'a [u8]) -> Found<Self> {
        let message = Table::root(metadata)?;
        Ok(Self {
            kind: message.number(1)?.unwrap_or_default(),
            header: message.table(2)?.ok_or("a message without header")?,
            n_body: usize::try_from(message.number::<i64>(3)?.unwrap_or_default())
                .map_err(|_| "a body of negative length")?,
        })
    }
}

/// Finds the column in a schema, and what stands before it.
fn find_column(schema: &Table<'_>, column: &str) -> Found<Layout> {
    let (mut first_node, mut first_buffer) = (0, 0);
    let (mut names, mut n_left) = (Vec::new(), MAX_COLUMNS);
    for field in schema.tables(1)? {
        let name = field.text(0)?.unwrap_or_default();
        if name == column {
            let kind: u8 = field.number(2)?.unwrap_or_default();
            let values = field.tables(5)?;
            let (LIST | LARGE_LIST, [values]) = (kind, values.as_slice()) else {
                return Err(format!("column `{column}` does not hold lists"));
            };
            let (value_bits, is_signed): (i32, u8) = match (values.number(2)?, values.table(3)?) {
                (Some(INT), Some(int)) => (
                    int.number(0)?.unwrap_or_default(),
                    int.number(1)?.unwrap_or_default(),
                ),
                _ => return Err(format!("column `{column}` does not hold lists of integers")),
            };
            return Ok(Layout {
                first_node,
                first_buffer,
                has_large_offsets: kind == LARGE_LIST,
                value_bytes: match value_bits {
                    8 | 16 | 32 | 64 => value_bits as usize / 8,
                    _ => return Err(format!("integers of {value_bits} bits")),
                },
                is_signed: is_signed != 0,
            });
        }
        names.push(name.to_owned());
        let (n_nodes, n_buffers) = size(&field, MAX_DEPTH, &mut n_left)?;
        first_node += n_nodes;
        first_buffer += n_buffers;
    }
    Err(format!("no column `{column}` beside {}", names.join(", ")))
}

/// Nodes and buffers of a column with its children.
fn size(field: &Table<'_>, depth: usize, n_left: &mut usize) -> Found<(usize, usize)> {
    let depth = depth.checked_sub(1).ok_or("columns nested too deeply")?;
    *n_left = n_left.checked_sub(1).ok_or("too many columns")?;
    if field.table(4)?.is_some() {
        return Ok((1, 2)); // a dictionary's indices
    }
    let n_own = match field.number::<u8>(2)?.unwrap_or_default() {
        1 => 0,                                                 // null
        4 | 5 | 19 | 20 => 3, // binary and text, with large offsets too
        2 | 3 | 6..=11 | 15 | 18 | LIST | 17 | LARGE_LIST => 2, // validity, then values or offsets
        13 | 16 => 1,         // structs and lists of fixed size
        kind => return Err(format!("a column of type number {kind}")),
    };
    let mut total = (1, n_own);
    for child in field.tables(5)? {
        let (n_nodes, n_buffers) = size(&child, depth, n_left)?;
        total = (total.0 + n_nodes, total.1 + n_buffers);
    }
    Ok(total)
}

/// The lists of a batch.
fn read_rows(batch: &Table<'_>, body: &[u8], layout: Layout) -> Found<Vec<Vec<u32>>> {
    if batch.table(3)?.is_some() {
        return Err("compressed buffers".to_owned());
    }
    let nodes = batch.structs(1, 16)?;
    let buffers = batch.structs(2, 16)?;
    let pair = |structs: &[u8], number: usize| -> Found<(usize, usize)> {
        let bytes = structs.get(number * 16..(number + 1) * 16);
        let bytes = bytes.ok_or("a batch that lacks a column")?;
        let value = |bytes: &[u8]| usize::try_from(little_endian(bytes));
        match (value(&bytes[..8]), value(&bytes[8..])) {
            (Ok(first), Ok(second)) => Ok((first, second)),
            _ => Err("a negative length".to_owned()),
        }
    };
    let buffer = |number: usize| -> Found<&[u8]> {
        let (offset, length) = pair(buffers, layout.first_buffer + number)?;
        let bytes = offset
            .checked_add(length)
            .and_then(|end| body.get(offset..end));
        bytes.ok_or_else(|| "a buffer outside of its batch".to_owned())
    };
    let (n_rows, n_null) = pair(nodes, layout.first_node)?;
    let (_, n_null_values) = pair(nodes, layout.first_node + 1)?;
    if n_null + n_null_values > 0 {
        return Err("a row without value".to_owned());
    }
    // The two validity buffers say nothing where nothing is null.
    let (offsets, values) = (buffer(1)?, buffer(3)?);
    let offset_bytes = if layout.has_large_offsets { 8 } else { 4 };
    let offset = |row: usize| -> Found<usize> {
        let bytes = offsets.get(row * offset_bytes..(row + 1) * offset_bytes);
        let offset = little_endian(bytes.ok_or("too few offsets")?);
        usize::try_from(offset).map_err(|_| "a negative offset".to_owned())
    };
    // No list is shorter than nothing, so a damaged number of rows cannot ask for more than its offsets have.
    if n_rows > offsets.len() / offset_bytes {
        return Err("too few offsets".to_owned());
    }
    let row = |row: usize| -> Found<Vec<u32>> {
        let (start, end) = (offset(row)?, offset(row + 1)?);
        let range = start
            .checked_mul(layout.value_bytes)
            .zip(end.checked_mul(layout.value_bytes));
        let bytes = range.and_then(|(start, end)| values.get(start..end));
        let bytes = bytes.ok_or("a list outside of its values")?;
        bytes
            .chunks_exact(layout.value_bytes)
            .map(|value| {
                let value = match layout.is_signed {
                    true => u32::try_from(little_endian(value)).ok(),
                    false => u32::try_from(unsigned(value)).ok(),
                };
                value.ok_or_else(|| "a token id that is none".to_owned())
            })
            .collect()
    };
    (0..n_rows).map(row).collect()
}

/// A signed number of up to eight bytes.
fn little_endian(bytes: &[u8]) -> i64 {
    let is_negative = bytes.last().is_some_and(|&last| last >= 0x80);
    let mut all = [if is_negative { 0xff } else { 0 }; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(all)
}

/// A number without sign of up to eight bytes.
fn unsigned(bytes: &[u8]) -> u64 {
    let mut all = [0; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(all)
}

/// A table of a flatbuffer, no byte of it trusted.
struct Table<'a> {
    bytes: &'a [u8],
    start: usize,
    /// Offsets of the fields.
    fields: &'a [u8],
}

impl<'a> Table<'a> {
    fn root(bytes: &'a [u8]) -> Found<Self> {
        Self::at(bytes, little_endian(slice(bytes, 0, 4)?) as usize)
    }

    fn at(bytes: &'a [u8], start: usize) -> Found<Self> {
        let back = little_endian(slice(bytes, start, 4)?);
        let fields = i64::try_from(start)
            .ok()
            .and_then(|start| start.checked_sub(back));
        let fields = fields.and_then(|fields| usize::try_from(fields).ok());
        let fields = fields.ok_or("an offset out of bounds")?;
        let n_bytes = u16_of(slice(bytes, fields, 2)?);
        let all = slice(bytes, fields, n_bytes)?;
        Ok(Self {
            bytes,
            start,
            fields: all.get(4..).ok_or("a table without fields")?,
        })
    }

    /// Where a field stands, if the table has it.
    fn field(&self, number: usize) -> Option<usize> {
        let offset = u16_of(self.fields.get(number * 2..number * 2 + 2)?);
        (offset > 0).then_some(self.start + offset)
    }

    /// Where the thing stands that a field leads to.
    fn target(&self, number: usize) -> Found<Option<usize>> {
        let Some(field) = self.field(number) else {
            return Ok(None);
        };
        let offset = little_endian(slice(self.bytes, field, 4)?) as u32 as usize;
        Ok(Some(field + offset))
    }

    fn number<T: TryFrom<i64>>(&self, number: usize) -> Found<Option<T>> {
        let Some(field) = self.field(number) else {
            return Ok(None);
        };
        let value = little_endian(slice(self.bytes, field, size_of::<T>())?);
        let value = if size_of::<T>() == 1 {
            value & 0xff
        } else {
            value
        };
        T::try_from(value)
            .map(Some)
            .map_err(|_| "a number out of bounds".to_owned())
    }

    fn table(&self, number: usize) -> Found<Option<Self>> {
        let target = self.target(number)?;
        target.map(|start| Self::at(self.bytes, start)).transpose()
    }

    /// A vector's elements, so many bytes each.
    fn structs(&self, number: usize, n_bytes: usize) -> Found<&'a [u8]> {
        let Some(start) = self.target(number)? else {
            return Ok(&[]);
        };
        let n_elements = little_endian(slice(self.bytes, start, 4)?) as u32 as usize;
        slice(self.bytes, start + 4, n_elements * n_bytes)
    }

    fn text(&self, number: usize) -> Found<Option<&'a str>> {
        let text = std::str::from_utf8(self.structs(number, 1)?);
        Ok(text.ok().filter(|text| !text.is_empty()))
    }

    fn tables(&self, number: usize) -> Found<Vec<Self>> {
        let Some(start) = self.target(number)? else {
            return Ok(Vec::new());
        };
        let offsets = self.structs(number, 4)?;
        let table = |(position, offset): (usize, &[u8])| {
            let offset = little_endian(offset) as u32 as usize;
            Self::at(self.bytes, start + 4 + position * 4 + offset)
        };
        offsets.chunks_exact(4).enumerate().map(table).collect()
    }
}

fn u16_of(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) | usize::from(bytes[1]) << 8
}

fn slice(bytes: &[u8], start: usize, n_bytes: usize) -> Found<&[u8]> {
    let end = start.checked_add(n_bytes);
    let slice = end.and_then(|end| bytes.get(start..end));
    slice.ok_or_else(|| "an offset out of bounds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_without_sign_are_read_as_such() {
        let mut rows = Vec::new();
        let folder = testkit::fixture("training/unsigned");
        for_each_row(&folder, "input_ids", &mut |row| {
            rows.push(row);
            Ok(())
        })
        .unwrap();
        assert_eq!(rows, [vec![7, 32767, 32768], vec![], vec![65535]]);
    }
}
