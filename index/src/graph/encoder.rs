//! From vectors to codes.

use std::ops::Range;

use compute::Simd;

use super::codes::{self, Codes, Header, Line, Probe, blank};
use super::kernel::Kernel;
use super::principal::{Directions, lines_of};
use crate::Metric;
use crate::kernel::first_pass;
use crate::rows::Rows;

/// What makes records of rows.
pub(super) struct Encoder<'a> {
    directions: &'a Directions,
    /// `|center|²/2`
    half_center: f64,
    metric: Metric,
    /// Under inner products, the square of the longest row's length; see [`super`].
    squared_radius: f64,
    simd: Simd,
    values: Vec<f32>,
    centered: Vec<f32>,
    /// By direction.
    coordinates: Vec<f32>,
    of_row: Vec<f32>,
}

impl<'a> Encoder<'a> {
    pub fn new(
        simd: Simd,
        directions: &'a Directions,
        metric: Metric,
        squared_radius: f64,
    ) -> Self {
        Self {
            directions,
            half_center: product(&directions.center, &directions.center) / 2.0,
            metric,
            squared_radius,
            simd,
            values: Vec::new(),
            centered: Vec::new(),
            coordinates: Vec::new(),
            of_row: Vec::new(),
        }
    }

    /// Writes the records of rows.
    pub fn encode(&mut self, rows: Rows<'_>, which: Range<usize>, records: &mut [Line]) {
        let Directions { center, basis } = self.directions;
        let (width, n_rows) = (center.len(), which.len());
        self.values.clear();
        self.centered.clear();
        for i in which {
            let row = rows.row(i);
            self.values.extend_from_slice(&row);
            self.centered
                .extend(row.iter().zip(center).map(|(x, c)| x - c));
        }
        self.coordinates.clear();
        self.coordinates.resize(n_rows * self.directions.len(), 0.0);
        first_pass(
            self.simd,
            Metric::InnerProduct,
            &self.centered.chunks_exact(width).collect::<Vec<_>>(),
            basis,
            &mut self.coordinates,
        );
        let records = records.chunks_exact_mut(lines_of(self.directions.len()));
        for (i, record) in records.enumerate() {
            let row = &self.values[i * width..][..width];
            let centered = &self.centered[i * width..][..width];
            let offset = match self.metric {
                Metric::InnerProduct | Metric::Cosine => self.half_center - product(center, row),
                Metric::L2 => product(centered, centered) / 2.0,
            };
            let lift = (self.squared_radius - product(row, row)).max(0.0).sqrt();
            let header = Header {
                offset: offset as f32,
                lift: lift as f32,
                ..Header::default()
            };
            self.of_row.clear();
            let coordinates = self.coordinates.iter().skip(i).step_by(n_rows);
            self.of_row.extend(coordinates);
            codes::write(record, header, &self.of_row);
        }
    }
}

/// The inner product.
pub(super) fn product(a: &[f32], b: &[f32]) -> f64 {
    let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
    products.sum()
}

/// What makes a probe of a query, by codes of the directions: its coordinates are about as exact as 8 bits can say them.
#[derive(Debug)]
pub(super) struct QueryEncoder {
    /// A record for each direction.
    basis: Vec<Line>,
    /// The numbers of the directions.
    all: Vec<u32>,
    center: Vec<f32>,
}

/// Kept to save allocations.
#[derive(Debug, Default)]
pub(super) struct QueryBuffers {
    centered: Vec<f32>,
    probe: Probe,
    record: Vec<Line>,
    coordinates: Vec<f32>,
}

impl QueryEncoder {
    pub fn new(directions: &Directions) -> Self {
        let Directions { center, basis } = directions;
        let per_record = lines_of(center.len());
        let mut lines = blank(directions.len() * per_record);
        let records = lines.chunks_exact_mut(per_record);
        for (record, direction) in records.zip(basis.chunks_exact(center.len())) {
            codes::write(record, Header::default(), direction);
        }
        Self {
            basis: lines,
            all: (0..directions.len() as u32).collect(),
            center: center.clone(),
        }
    }

    /// The query in the place of a node, without an offset: that is the same for all it is compared with.
    pub fn encode(
        &self,
        kernel: Kernel,
        query: &[f32],
        buffers: &mut QueryBuffers,
        probe: &mut Probe,
    ) {
        let QueryBuffers {
            centered,
            probe: of_directions,
            record,
            coordinates,
        } = buffers;
        centered.clear();
        centered.extend(query.iter().zip(&self.center).map(|(q, c)| q - c));
        record.resize(lines_of(query.len()), Line([0; codes::LINE]));
        codes::write(record, Header::default(), centered);
        of_directions.set(record);
        let directions = Codes::new(&self.basis, record.len());
        kernel.compare(directions, of_directions, &self.all, coordinates);
        record.resize(lines_of(self.all.len()), Line([0; codes::LINE]));
        codes::write(record, Header::default(), coordinates);
        probe.set(record);
    }
}
