use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use compute::accelerator::{AcceleratorError, Buffer, MatrixType};

use super::kernels::{OrderAt, SQUARES};
use super::{Device, bytes, download};
use crate::training::function::AdamWStep;

/// Rows that a block adds up.
const MOST_ROWS: usize = 128;

/// What of a parameter is on a device: values, what backward passes have added up, and the moments.
///
/// Gradients are whole tensors, those of tables too.
pub(in crate::training) struct Resident {
    device: Device,
    values: Buffer,
    gradient: Buffer,
    has_gradient: bool,
    moments: Option<[Buffer; 2]>,
    n_steps: u64,
    n: usize,
}

impl Resident {
    pub fn new(device: &Device, values: &[f32]) -> Result<Self, AcceleratorError> {
        Ok(Self {
            values: device.upload(values)?,
            gradient: device.floats(values.len())?,
            has_gradient: false,
            moments: None,
            n_steps: 0,
            n: values.len(),
            device: device.clone(),
        })
    }

    pub fn is_on(&self, device: &Device) -> bool {
        Arc::ptr_eq(&self.device.accelerator, &device.accelerator)
    }

    pub fn values(&self) -> Result<Vec<f32>, AcceleratorError> {
        download(&self.values)
    }

    pub fn set_values(&mut self, values: &[f32]) -> Result<(), AcceleratorError> {
        self.values.write(0, bytes(values))
    }

    /// Where the values are, for as long as the parameter lives.
    pub fn address(&self) -> u64 {
        self.values.address()
    }

    pub fn has_gradient(&self) -> bool {
        self.has_gradient
    }

    /// Where a gradient is added: zeros, if there is none yet.
    pub fn gradient_address(&mut self) -> Result<u64, AcceleratorError> {
        if !self.has_gradient {
            self.gradient.clear(0, self.gradient.n_bytes())?;
            self.has_gradient = true;
        }
        Ok(self.gradient.address())
    }

    pub fn gradient(&self) -> Result<Option<Vec<f32>>, AcceleratorError> {
        self.has_gradient
            .then(|| download(&self.gradient))
            .transpose()
    }

    pub fn clear_gradient(&mut self) {
        self.has_gradient = false;
    }

    pub fn set_gradient(&mut self, values: &[f32]) -> Result<(), AcceleratorError> {
        self.has_gradient = true;
        self.gradient.write(0, bytes(values))
    }

    pub fn add_gradient(&mut self, values: &[f32]) -> Result<(), AcceleratorError> {
        if !self.has_gradient {
            return self.set_gradient(values);
        }
        let (n, to) = (self.n, self.gradient.address());
        let values = self.device.upload(values)?;
        // SAFETY: there are as many values in both.
        unsafe { self.device.kernels().add_values(values.address(), n, to) }
    }

    /// Rows of a table, one after the other.
    pub fn gather(&self, ids: &[u32], width: usize) -> Result<Vec<f32>, AcceleratorError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let on_device = self.device.upload_words(ids)?;
        let rows = self.device.floats(ids.len() * width)?;
        let places = (self.values.address(), rows.address());
        let kernels = self.device.kernels();
        // SAFETY: the caller has checked the ids against the table.
        unsafe { kernels.gather_rows((on_device.address(), ids.len()), width, places)? };
        download(&rows)
    }

    /// Adds rows to those of a table's gradient.
    pub fn add_row_gradient(
        &mut self,
        ids: &[u32],
        values: &[f32],
        width: usize,
    ) -> Result<(), AcceleratorError> {
        let rows = self.device.upload(values)?;
        self.add_rows(ids, &rows, width)
    }

    /// The same of rows that are on the device.
    pub fn add_rows(
        &mut self,
        ids: &[u32],
        rows: &Buffer,
        width: usize,
    ) -> Result<(), AcceleratorError> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut rows_of: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (place, &id) in (0..).zip(ids) {
            rows_of.entry(id).or_default().push(place);
        }
        // A row of the table that many others belong to, such as that of a type, is the sum of partial sums.
        let n_partial: usize = rows_of
            .values()
            .map(|rows| rows.len().div_ceil(MOST_ROWS))
            .sum();
        let to = self.gradient_address()?;
        if n_partial == rows_of.len() {
            return self.queue_rows(rows_of, rows.address(), width, to);
        }
        let partial = self.device.floats(n_partial * width)?;
        partial.clear(0, partial.n_bytes())?;
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let mut number = 0;
        for (id, rows) in rows_of {
            let parts = rows.chunks(MOST_ROWS).map(<[u32]>::to_vec);
            let start = number;
            for part in parts {
                first.push((number, part));
                number += 1;
            }
            second.push((id, (start..number).collect()));
        }
        self.queue_rows(first, rows.address(), width, partial.address())?;
        self.queue_rows(second, partial.address(), width, to)
    }

    /// Adds to rows of a table the sums of those that belong to each.
    fn queue_rows(
        &self,
        rows_of: impl IntoIterator<Item = (u32, Vec<u32>)>,
        rows: u64,
        width: usize,
        table: u64,
    ) -> Result<(), AcceleratorError> {
        let (mut ids, mut starts, mut order) = (Vec::new(), vec![0], Vec::new());
        for (id, rows) in rows_of {
            ids.push(id);
            order.extend(rows);
            starts.push(order.len() as u32);
        }
        let n = ids.len();
        ids.append(&mut starts);
        ids.append(&mut order);
        let words = self.device.upload_words(&ids)?;
        let order = OrderAt {
            ids: words.address(),
            starts: words.at(4 * n),
            order: words.at(4 * (2 * n + 1)),
            n,
        };
        let kernels = self.device.kernels();
        // SAFETY: the caller has a row for each place, and the ids are rows of the table.
        unsafe { kernels.add_rows(order, width, (rows, table)) }
    }

    /// The number of the step to come.
    pub fn next_step(&self) -> u64 {
        self.n_steps + 1
    }

    /// Makes room for the moments, so that a step of many parameters does not end in its middle.
    pub fn prepare(&mut self) -> Result<(), AcceleratorError> {
        if self.moments.is_none() {
            let zeros = || {
                let buffer = self.device.floats(self.n)?;
                buffer.clear(0, buffer.n_bytes())?;
                Ok(buffer)
            };
            self.moments = Some([zeros()?, zeros()?]);
        }
        Ok(())
    }

    /// Takes a step, and forgets the gradient.
    pub fn step(&mut self, step: &AdamWStep) -> Result<(), AcceleratorError> {
        let moments = self.moments.as_ref();
        let [first, second] = moments.expect("there is room for them since `prepare`");
        let at = [&self.values, &self.gradient, first, second].map(Buffer::address);
        // SAFETY: all four have so many values.
        unsafe { self.device.kernels().adamw(at, self.n, step)? };
        self.n_steps += 1;
        self.has_gradient = false;
        Ok(())
    }

    /// Steps taken, first and second moments; `None` before the first step.
    #[expect(clippy::type_complexity, reason = "three things, named above")]
    pub fn moments(&self) -> Result<Option<(u64, [Vec<f32>; 2])>, AcceleratorError> {
        let Some([first, second]) = &self.moments else {
            return Ok(None);
        };
        Ok(Some((self.n_steps, [download(first)?, download(second)?])))
    }

    pub fn set_moments(
        &mut self,
        moments: Option<(u64, [&[f32]; 2])>,
    ) -> Result<(), AcceleratorError> {
        (self.n_steps, self.moments) = match moments {
            Some((n_steps, [first, second])) => {
                let moments = [self.device.upload(first)?, self.device.upload(second)?];
                (n_steps, Some(moments))
            }
            None => (0, None),
        };
        Ok(())
    }
}

impl fmt::Debug for Resident {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} values on {:?}",
            self.n, self.device.accelerator
        )
    }
}

/// Σ x² of the gradients of several parameters of one device, of which each has one.
pub(in crate::training) fn squared_norms(all: &[&Resident]) -> Result<Vec<f64>, AcceleratorError> {
    let Some(first) = all.first() else {
        return Ok(Vec::new());
    };
    let device = &first.device;
    let partial = device.room(2 * SQUARES * all.len(), MatrixType::F32)?; // f64
    for (i, resident) in all.iter().enumerate() {
        let to = partial.at(i * SQUARES * size_of::<f64>());
        // SAFETY: there is room for the sums of each.
        unsafe {
            device
                .kernels()
                .sum_squares(resident.gradient.address(), resident.n, to)?
        };
    }
    let mut bytes = vec![0; partial.n_bytes()];
    partial.read(0, &mut bytes)?;
    let (numbers, _) = bytes.as_chunks::<8>();
    let numbers: Vec<f64> = numbers
        .iter()
        .map(|&bytes| f64::from_le_bytes(bytes))
        .collect();
    Ok(numbers
        .chunks(SQUARES)
        .map(|sums| sums.iter().sum())
        .collect())
}
