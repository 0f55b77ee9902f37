//! Files of vectors: what was written is read, and nothing else is.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use proptest::prelude::*;
use tempfile::TempDir;
use vectors::{VectorFile, VectorFileError, ZeroRows};

/// The kinds of file, with the extension of each.
const KINDS: [(Kind, &str); 6] = [
    (Kind::Npy("<f2"), "npy"),
    (Kind::Npy("<f4"), "npy"),
    (Kind::Npy("<f8"), "npy"),
    (Kind::Fvecs, "fvecs"),
    (Kind::Safetensors("F32"), "safetensors"),
    (Kind::Safetensors("BF16"), "safetensors"),
];

#[derive(Clone, Copy, Debug)]
enum Kind {
    Npy(&'static str),
    Fvecs,
    Safetensors(&'static str),
}

/// The file of rows whose values every type can hold.
fn file_of(kind: Kind, rows: &[Vec<f32>]) -> Vec<u8> {
    let (n_rows, width) = (rows.len(), rows[0].len());
    match kind {
        Kind::Npy(name) => {
            let shape = format!("'shape': ({n_rows}, {width}), ");
            npy(name, &shape, &encode(name, rows))
        }
        Kind::Fvecs => rows
            .iter()
            .flat_map(|row| {
                let width = (row.len() as i32).to_le_bytes();
                width
                    .into_iter()
                    .chain(row.iter().flat_map(|value| value.to_le_bytes()))
            })
            .collect(),
        Kind::Safetensors(name) => {
            let data = encode(name, rows);
            let shape = format!("[{n_rows},{width}]");
            safetensors(&[("rows", name, &shape, (0, data.len()))], &data)
        }
    }
}

fn encode(name: &str, rows: &[Vec<f32>]) -> Vec<u8> {
    let values = rows.iter().flatten();
    match name {
        "<f2" => values
            .flat_map(|&value| f16::from_f32(value).to_le_bytes())
            .collect(),
        "BF16" => values
            .flat_map(|&value| bf16::from_f32(value).to_le_bytes())
            .collect(),
        "<f8" => values
            .flat_map(|&value| f64::from(value).to_le_bytes())
            .collect(),
        _ => values.flat_map(|value| value.to_le_bytes()).collect(),
    }
}

fn npy(name: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let dictionary = format!("{{'descr': '{name}', 'fortran_order': False, {shape}}}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((dictionary.len() as u16).to_le_bytes());
    bytes.extend(dictionary.bytes());
    bytes.extend(data);
    bytes
}

fn safetensors(tensors: &[(&str, &str, &str, (usize, usize))], data: &[u8]) -> Vec<u8> {
    let entries: Vec<_> = tensors
        .iter()
        .map(|(name, dtype, shape, (start, end))| {
            format!(
                r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#
            )
        })
        .collect();
    let header = format!("{{{}}}", entries.join(","));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.bytes());
    bytes.extend(data);
    bytes
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn write(&self, extension: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(format!("rows.{extension}"));
        std::fs::write(&path, bytes).expect("written");
        path
    }

    /// What reading the whole file says.
    fn read(&self, extension: &str, bytes: &[u8]) -> Result<Vec<f32>, VectorFileError> {
        read(&self.write(extension, bytes), None)
    }
}

fn read(path: &Path, name: Option<&str>) -> Result<Vec<f32>, VectorFileError> {
    VectorFile::open(path, name)?.read_all(ZeroRows::Refused)
}

/// Rows of small whole numbers and halves, the last value never zero.
fn rows() -> impl Strategy<Value = Vec<Vec<f32>>> {
    let value = (-60i8..60).prop_map(|value| f32::from(value) / 2.0);
    (1usize..9).prop_flat_map(move |width| {
        let row = prop::collection::vec(value.clone(), width).prop_map(|mut row| {
            *row.last_mut().expect("a width") += 40.0;
            row
        });
        prop::collection::vec(row, 1..20)
    })
}

proptest! {
    #[test]
    fn every_kind_gives_back_the_rows(rows in rows()) {
        let folder = Folder::new();
        for (kind, extension) in KINDS {
            let file = VectorFile::open(&folder.write(extension, &file_of(kind, &rows)), None).unwrap();
            prop_assert_eq!((file.n_rows(), file.width()), (rows.len() as u64, rows[0].len()));
            prop_assert_eq!(file.read_all(ZeroRows::Refused).unwrap(), rows.concat(), "{:?}", kind);
            for (i, row) in rows.iter().enumerate().rev() {
                let mut values = Vec::new();
                file.read(i as u64, 1, &mut values).unwrap();
                prop_assert_eq!(&values, row);
            }
        }
    }

    #[test]
    fn damaged_files_never_panic(rows in rows(), position: prop::sample::Index, byte: u8) {
        let folder = Folder::new();
        for (kind, extension) in KINDS {
            let mut bytes = file_of(kind, &rows);
            let position = position.index(bytes.len());
            bytes[position] = byte;
            let _ = folder.read(extension, &bytes);
        }
    }
}

#[test]
fn files_that_were_cut_or_grew_are_refused() {
    let folder = Folder::new();
    let rows = [vec![1.0, 2.0, 3.0], vec![4.0, 5.0, 6.0]];
    for (kind, extension) in KINDS {
        let mut bytes = file_of(kind, &rows);
        for n in 0..bytes.len() {
            // Whole rows of .fvecs are a whole file.
            if matches!(kind, Kind::Fvecs) && n == 16 {
                continue;
            }
            let error = folder.read(extension, &bytes[..n]).unwrap_err();
            assert!(error.is_bad_input(), "{kind:?} cut to {n} bytes: {error}");
        }
        bytes.push(0);
        let error = folder.read(extension, &bytes).unwrap_err();
        assert!(
            matches!(error, VectorFileError::Length { .. }),
            "{kind:?}: {error}"
        );
    }
}

#[test]
fn rows_that_cannot_be_compared_are_named() {
    let folder = Folder::new();
    for (kind, extension) in KINDS {
        let mut rows = vec![vec![1.0, 2.0]; 7];
        rows[3] = vec![0.0, -0.0];
        let path = folder.write(extension, &file_of(kind, &rows));
        let file = VectorFile::open(&path, None).unwrap();
        assert_eq!(file.read_all(ZeroRows::Allowed).unwrap(), rows.concat());
        let error = file.read_all(ZeroRows::Refused).unwrap_err();
        assert!(
            matches!(error, VectorFileError::ZeroRow { row: 3, .. }),
            "{error}"
        );
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            rows[5][1] = value;
            let path = folder.write(extension, &file_of(kind, &rows));
            let error = VectorFile::open(&path, None)
                .unwrap()
                .read_all(ZeroRows::Allowed)
                .unwrap_err();
            assert!(
                matches!(
                    error,
                    VectorFileError::NotFinite {
                        row: 5,
                        dimension: 1,
                        ..
                    }
                ),
                "{error}"
            );
            assert!(error.to_string().contains(extension), "{error}");
        }
    }
    let too_large = npy("<f8", "'shape': (1, 1)", &1e39f64.to_le_bytes());
    let error = folder.read("npy", &too_large).unwrap_err();
    assert!(
        matches!(error, VectorFileError::NotFinite { row: 0, .. }),
        "{error}"
    );
}

#[test]
fn bytes_are_numbers() {
    let folder = Folder::new();
    assert_eq!(
        folder
            .read("npy", &npy("|u1", "'shape': (2, 2)", &[1, 2, 3, 255]))
            .unwrap(),
        [1.0, 2.0, 3.0, 255.0]
    );
    assert_eq!(
        folder
            .read("npy", &npy("|i1", "'shape': (1, 2)", &[1, 255]))
            .unwrap(),
        [1.0, -1.0]
    );
    assert_eq!(
        folder.read("bvecs", &[2, 0, 0, 0, 7, 200]).unwrap(),
        [7.0, 200.0]
    );
}

fn check_header(extension: &str, bytes: &[u8], expected: &str) {
    let error = Folder::new()
        .read(extension, bytes)
        .expect_err("a damaged file");
    assert!(matches!(error, VectorFileError::Header { .. }), "{error}");
    assert!(error.to_string().ends_with(expected), "{error}");
}

#[test]
fn headers_say_what_is_wrong_with_them() {
    let shape = |shape| npy("<f4", shape, &[0; 24]);
    check_header("npy", b"\x93NUMPY\x04\x00", "unknown magic or version");
    check_header("npy", b"no NumPy file", "unknown magic or version");
    check_header(
        "npy",
        &npy(">f4", "'shape': (2, 3)", &[0; 24]),
        "values of type '>f4'",
    );
    check_header(
        "npy",
        &npy("<i8", "'shape': (2, 3)", &[0; 48]),
        "values of type '<i8'",
    );
    check_header("npy", &shape(""), "no `shape`");
    check_header("npy", &shape("'shape': (6,)"), "shape (6,)");
    check_header("npy", &shape("'shape': (-2, 3)"), "shape (-2, 3)");
    check_header("npy", &shape("'shape': (1, 2, 3)"), "shape (1, 2, 3)");
    check_header(
        "npy",
        &shape("'shape': (18446744073709551615, 4294967295)"),
        "impossible shape",
    );
    let empty = npy("<f4", "'shape': (2, 0)", &[]);
    check_header("npy", &empty, "width 0 is not between 1 and 65536");
    let mut bytes = shape("'shape': (2, 3)");
    let at = bytes
        .windows(5)
        .position(|window| window == b"False")
        .unwrap();
    bytes[at..at + 5].copy_from_slice(b"True ");
    check_header("npy", &bytes, "column-major order");
    check_header(
        "fvecs",
        &[255, 255, 255, 255, 0],
        "the first row has width -1",
    );
    let huge = [255, 255, 255, 255, 255, 255, 255, 127];
    check_header(
        "safetensors",
        &huge,
        "a header of 9223372036854775807 bytes in a file of 8",
    );
}

#[test]
fn a_row_of_another_width_is_named() {
    let mut bytes = file_of(Kind::Fvecs, &[vec![1.0, 2.0], vec![3.0, 4.0]]);
    bytes[12] = 3;
    let error = Folder::new().read("fvecs", &bytes).unwrap_err();
    assert!(
        matches!(
            error,
            VectorFileError::RowWidth {
                row: 1,
                expected: 2,
                found: 3,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn files_without_rows_or_of_no_known_kind_are_refused() {
    let folder = Folder::new();
    for (extension, bytes) in [
        ("fvecs", vec![]),
        ("npy", npy("<f4", "'shape': (0, 3)", &[])),
    ] {
        let error = folder.read(extension, &bytes).unwrap_err();
        assert!(matches!(error, VectorFileError::Empty { .. }), "{error}");
    }
    let error = folder.read("txt", b"1 2 3").unwrap_err();
    assert!(matches!(error, VectorFileError::Unknown { .. }), "{error}");
    let npy_by_content = npy("<f4", "'shape': (1, 1)", &1f32.to_le_bytes());
    assert_eq!(folder.read("embeddings", &npy_by_content).unwrap(), [1.0]);
}

#[test]
fn tensors_are_chosen_by_name() {
    let folder = Folder::new();
    let data = encode("F32", &[vec![1.0, 2.0, 3.0, 4.0, 5.0]]);
    let both = [
        ("a", "F32", "[1,2]", (0, 8)),
        ("b", "F32", "[3,1]", (8, 20)),
    ];
    let path = folder.write("safetensors", &safetensors(&both, &data));
    assert_eq!(read(&path, Some("a")).unwrap(), [1.0, 2.0]);
    assert_eq!(read(&path, Some("b")).unwrap(), [3.0, 4.0, 5.0]);
    let check = |name, expected: &str| {
        let error = read(&path, name).unwrap_err();
        assert!(error.to_string().ends_with(expected), "{error}");
    };
    check(None, "one of its tensors has to be named: a, b");
    check(Some("c"), "it has no tensor `c`");
    let one = [("a", "F32", "[2]", (0, 8)), ("b", "F32", "[3,1]", (8, 20))];
    assert_eq!(
        folder
            .read("safetensors", &safetensors(&one, &data))
            .unwrap(),
        [3.0, 4.0, 5.0]
    );
    check_header(
        "safetensors",
        &safetensors(&one[..1], &data[..8]),
        "it has no two-dimensional tensor",
    );
    let wrong = [("a", "F32", "[2,2]", (0, 20))];
    check_header(
        "safetensors",
        &safetensors(&wrong, &data),
        "header: invalid shape, data type, or offset for tensor",
    );
    let path = folder.write("fvecs", &[1, 0, 0, 0, 0, 0, 0, 0]);
    let error = read(&path, Some("a")).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("it has no names, and so no `a`"),
        "{error}"
    );
}
