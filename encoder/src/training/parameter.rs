use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, Var};
use safetensors::tensor::TensorView;

use compute::accelerator::Buffer;

use super::accelerated::{Device as Accelerated, Resident, failed};
use super::adamw::Moments;
use super::error::TrainingError;

/// A tensor to be trained: values, gradient and what the optimizer remembers.
///
/// Gradients add up until [`super::AdamW::step`] or [`Parameters::clear_gradients`]. A **table** is looked up by row:
/// its gradient holds the rows that a batch has seen, and the optimizer leaves the others for later. Every way to read
/// values brings them up to date first, so that nobody sees a stale row.
pub struct Parameter {
    name: String,
    shape: Vec<usize>,
    is_table: bool,
    decays: bool,
    anchor: Var,
    version: AtomicU64,
    inner: RwLock<Inner>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) values: Vec<f32>,
    pub(super) gradient: Gradient,
    pub(super) moments: Option<Moments>,
    /// Where the parameter is on a device: all of it, `gradient` and `moments` are empty then.
    pub(super) resident: Option<Resident>,
    /// Whether `values` are no longer those on the device.
    pub(super) is_stale: bool,
}

impl Inner {
    /// Copies the values from the device, where they have changed there.
    fn fetch(&mut self) -> Result<()> {
        if let Some(resident) = self.resident.as_ref().filter(|_| self.is_stale) {
            self.values = resident.values().map_err(failed)?;
            self.is_stale = false;
        }
        Ok(())
    }

    /// What of the parameter is on a device.
    fn resident(&mut self) -> &mut Resident {
        let resident = self.resident.as_mut();
        resident.expect("the parameter is one of layers on a device")
    }
}

/// What backward passes have added up: whole tensors, rows of a table, or both.
#[derive(Default)]
pub(super) struct Gradient {
    /// Meaningful where `is_dense`.
    pub(super) values: Vec<f32>,
    pub(super) is_dense: bool,
    slots: HashMap<u32, usize>,
    /// Rows of a table in the order of their first appearance, and their gradients.
    pub(super) rows: Vec<u32>,
    pub(super) row_values: Vec<f32>,
}

impl Gradient {
    pub(super) fn is_empty(&self) -> bool {
        !self.is_dense && self.rows.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.is_dense = false;
        self.slots.clear();
        self.rows.clear();
        self.row_values.clear();
    }

    fn add(&mut self, values: &[f32]) {
        if self.is_dense {
            for (sum, value) in self.values.iter_mut().zip(values) {
                *sum += value;
            }
        } else {
            self.values.clear();
            self.values.extend_from_slice(values);
            self.is_dense = true;
        }
    }

    fn add_rows(&mut self, rows: &[u32], values: &[f32], width: usize) {
        for (&row, values) in rows.iter().zip(values.chunks_exact(width)) {
            match self.slots.entry(row) {
                Entry::Vacant(entry) => {
                    entry.insert(self.rows.len());
                    self.rows.push(row);
                    self.row_values.extend_from_slice(values);
                }
                Entry::Occupied(entry) => {
                    let sums = &mut self.row_values[entry.get() * width..][..width];
                    for (sum, value) in sums.iter_mut().zip(values) {
                        *sum += value;
                    }
                }
            }
        }
    }

    /// Adds the rows to the whole tensor, where there is both.
    pub(super) fn merge(&mut self, width: usize) {
        if !self.is_dense || self.rows.is_empty() {
            return;
        }
        for (&row, values) in self.rows.iter().zip(self.row_values.chunks_exact(width)) {
            let sums = &mut self.values[row as usize * width..][..width];
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
        }
        self.slots.clear();
        self.rows.clear();
        self.row_values.clear();
    }

    /// The values that are not zero by construction.
    pub(super) fn present(&self) -> &[f32] {
        if self.is_dense {
            &self.values
        } else {
            &self.row_values
        }
    }
}

impl Parameter {
    fn new(name: &str, shape: &[usize], values: Vec<f32>, kind: Kind) -> Result<Arc<Self>> {
        if values.len() != shape.iter().product::<usize>() {
            candle_core::bail!(
                "parameter `{name}` of shape {shape:?} has {} values",
                values.len()
            );
        }
        Ok(Arc::new(Self {
            name: name.to_owned(),
            shape: shape.to_vec(),
            is_table: kind == Kind::Table,
            decays: kind != Kind::Plain,
            anchor: Var::zeros((), DType::F32, &Device::Cpu)?,
            version: AtomicU64::new(0),
            inner: RwLock::new(Inner {
                values,
                ..Inner::default()
            }),
        }))
    }

    /// The name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Whether weight decay applies.
    pub fn decays(&self) -> bool {
        self.decays
    }

    /// Values of the last dimension.
    pub(super) fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    pub(super) fn is_table(&self) -> bool {
        self.is_table
    }

    /// Grows whenever values change.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn changed(&self) {
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks for reading, after all rows of a table are brought up to date and values on a device are copied.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn read(&self) -> Result<RwLockReadGuard<'_, Inner>> {
        self.write().fetch()?;
        Ok(self.settled())
    }

    /// Does as [`Self::read`] with a parameter that is not on a device.
    pub(super) fn settled(&self) -> RwLockReadGuard<'_, Inner> {
        if self.is_table {
            let inner = &mut *self.write();
            if let Some(moments) = &mut inner.moments {
                moments.catch_up_all(&mut inner.values);
            }
        }
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the parameter to a device, all rows of a table up to date, unless it is there.
    ///
    /// # Errors
    /// The device's, such as that there is no room.
    pub(super) fn place(&self, device: &Accelerated) -> Result<()> {
        drop(self.read()?);
        let gradient = self.gradient()?;
        let inner = &mut *self.write();
        if let Some(resident) = &inner.resident {
            if !resident.is_on(device) {
                candle_core::bail!("parameter `{}` is on another device", self.name);
            }
            return Ok(());
        }
        let mut resident = Resident::new(device, &inner.values).map_err(failed)?;
        let moments = inner.moments.as_ref().map(Moments::parts);
        resident.set_moments(moments).map_err(failed)?;
        if let Some(gradient) = gradient {
            resident.set_gradient(&gradient).map_err(failed)?;
        }
        inner.moments = None;
        inner.gradient.clear();
        inner.resident = Some(resident);
        Ok(())
    }

    /// Where the values are on a device, for as long as the parameter lives.
    pub(super) fn address(&self) -> u64 {
        self.write().resident().address()
    }

    /// Where the gradient on a device is, zeros if there was none.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn gradient_address(&self) -> Result<u64> {
        let mut inner = self.write();
        inner.resident().gradient_address().map_err(failed)
    }

    /// Adds rows that are on the device to those of a table's gradient.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn add_device_rows(&self, ids: &[u32], rows: &Buffer) -> Result<()> {
        let (mut inner, width) = (self.write(), self.width());
        inner.resident().add_rows(ids, rows, width).map_err(failed)
    }

    /// A copy of the values, all rows of a table up to date.
    ///
    /// Steps that rows have put off stay put off: a run that somebody looks at goes on as one that nobody does, bit for bit.
    ///
    /// # Errors
    /// A device's that the parameter is on.
    pub fn values(&self) -> Result<Vec<f32>> {
        self.write().fetch()?;
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut values = inner.values.clone();
        if let Some(moments) = inner.moments.as_ref().filter(|moments| moments.is_behind()) {
            moments.clone().catch_up_all(&mut values);
        }
        Ok(values)
    }

    /// A copy of what the optimizer has to do with a table whose rows have put off steps.
    fn behind(self: &Arc<Self>) -> Option<(Arc<Self>, Vec<f32>, Moments)> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let moments = inner
            .moments
            .as_ref()
            .filter(|moments| moments.is_behind())?;
        Some((self.clone(), inner.values.clone(), moments.clone()))
    }

    /// Replaces the values; what the optimizer remembers stays.
    ///
    /// # Errors
    /// When there are not as many as before.
    pub fn set_values(&self, values: &[f32]) -> Result<()> {
        drop(self.read()?); // pending steps belong to the old values
        let inner = &mut *self.write();
        if values.len() != inner.values.len() {
            candle_core::bail!(
                "parameter `{}` of shape {:?} is given {} values",
                self.name,
                self.shape,
                values.len()
            );
        }
        inner.values.copy_from_slice(values);
        if let Some(resident) = &mut inner.resident {
            resident.set_values(values).map_err(failed)?;
        }
        self.changed();
        Ok(())
    }

    /// Copies rows of a table one after the other into `rows`.
    ///
    /// # Errors
    /// A device's that the parameter is on.
    pub(super) fn gather(&self, ids: &[u32], rows: &mut [f32]) -> Result<()> {
        let width = self.width();
        let inner = &mut *self.write();
        if let Some(resident) = inner.resident.as_ref().filter(|_| inner.is_stale) {
            rows.copy_from_slice(&resident.gather(ids, width).map_err(failed)?);
            return Ok(());
        }
        if let Some(moments) = &mut inner.moments {
            moments.catch_up(ids, &mut inner.values, width);
        }
        for (&id, row) in ids.iter().zip(rows.chunks_exact_mut(width)) {
            row.copy_from_slice(&inner.values[id as usize * width..][..width]);
        }
        Ok(())
    }

    /// The gradient so far as a whole tensor, `None` before a backward pass has reached this parameter.
    ///
    /// # Errors
    /// A device's that the parameter is on.
    pub fn gradient(&self) -> Result<Option<Vec<f32>>> {
        let inner = &mut *self.write();
        if let Some(resident) = &inner.resident {
            return resident.gradient().map_err(failed);
        }
        let gradient = &mut inner.gradient;
        if gradient.is_empty() {
            return Ok(None);
        }
        gradient.merge(self.width());
        if gradient.is_dense {
            return Ok(Some(gradient.values.clone()));
        }
        let (mut whole, width) = (vec![0.0; self.shape.iter().product()], self.width());
        for (&row, values) in gradient
            .rows
            .iter()
            .zip(gradient.row_values.chunks_exact(width))
        {
            whole[row as usize * width..][..width].copy_from_slice(values);
        }
        Ok(Some(whole))
    }

    /// Says what of the gradient is there.
    pub fn gradient_extent(&self) -> Extent {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let gradient = &inner.gradient;
        let is_on_device = inner.resident.as_ref().is_some_and(Resident::has_gradient);
        if gradient.is_dense || is_on_device {
            return Extent::Whole;
        }
        if gradient.is_empty() {
            return Extent::Nothing;
        }
        let mut rows = gradient.rows.clone();
        rows.sort_unstable();
        Extent::Rows(rows)
    }

    /// Adds the gradient to the end of `values`, with zeros where an extent that holds its own has more.
    ///
    /// # Errors
    /// A device's that the parameter is on.
    pub fn append_gradient(&self, extent: &Extent, values: &mut Vec<f32>) -> Result<()> {
        let (inner, width) = (&mut *self.write(), self.width());
        if let Some(resident) = &inner.resident
            && let Some(gradient) = resident.gradient().map_err(failed)?
        {
            values.extend(gradient);
            return Ok(());
        }
        let gradient = &mut inner.gradient;
        gradient.merge(width);
        if gradient.is_dense {
            values.extend_from_slice(&gradient.values);
            return Ok(());
        }
        let start = values.len();
        values.resize(start + extent.n_values(&self.shape), 0.0);
        let own = gradient.row_values.chunks_exact(width);
        for (row, own) in gradient.rows.iter().zip(own) {
            let place = match extent {
                Extent::Rows(rows) => rows.binary_search(row).expect("the extent holds the own"),
                _ => *row as usize,
            };
            values[start + place * width..][..width].copy_from_slice(own);
        }
        Ok(())
    }

    /// Replaces the gradient.
    ///
    /// # Errors
    /// When there are not as many values as the extent has.
    pub fn set_gradient(&self, extent: &Extent, values: &[f32]) -> Result<()> {
        if values.len() != extent.n_values(&self.shape) {
            candle_core::bail!(
                "gradient of `{}`, shape {:?}, has {} values",
                self.name,
                self.shape,
                values.len()
            );
        }
        let (inner, width) = (&mut *self.write(), self.width());
        if let Some(resident) = &mut inner.resident {
            resident.clear_gradient();
            return match extent {
                Extent::Nothing => Ok(()),
                Extent::Whole => resident.set_gradient(values).map_err(failed),
                Extent::Rows(rows) => resident
                    .add_row_gradient(rows, values, width)
                    .map_err(failed),
            };
        }
        let gradient = &mut inner.gradient;
        gradient.clear();
        match extent {
            Extent::Nothing => {}
            Extent::Whole => gradient.add(values),
            Extent::Rows(rows) => gradient.add_rows(rows, values, width),
        }
        Ok(())
    }

    /// Adds to the gradient.
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn add_gradient(&self, values: &[f32]) -> Result<()> {
        let mut inner = self.write();
        if values.len() != inner.values.len() {
            candle_core::bail!(
                "gradient of `{}`, shape {:?}, has {} values",
                self.name,
                self.shape,
                values.len()
            );
        }
        match &mut inner.resident {
            Some(resident) => resident.add_gradient(values).map_err(failed)?,
            None => inner.gradient.add(values),
        }
        Ok(())
    }

    pub(super) fn add_row_gradient(&self, rows: &[u32], values: &[f32]) -> Result<()> {
        let (inner, width) = (&mut *self.write(), self.width());
        match &mut inner.resident {
            Some(resident) => resident
                .add_row_gradient(rows, values, width)
                .map_err(failed)?,
            None => inner.gradient.add_rows(rows, values, width),
        }
        Ok(())
    }

    /// The values as a tensor for candle's operations; its gradient is added to this parameter's.
    ///
    /// # Errors
    /// candle's.
    pub fn tensor(self: &Arc<Self>) -> Result<Tensor> {
        self.anchor.as_tensor().apply_op1(Whole(self.clone()))
    }

    /// A tensor that makes candle walk back to an operation that has parameters but no input.
    pub(super) fn anchor(&self) -> &Tensor {
        self.anchor.as_tensor()
    }

    /// `x` laid out row by row, as the input of an operation with this parameter.
    ///
    /// candle walks back to operations on variables alone, so a constant would cut the parameter off from the loss.
    pub(super) fn input(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        if x.track_op() {
            Ok(x)
        } else {
            x.broadcast_add(self.anchor())
        }
    }
}

/// The operation behind [`Parameter::tensor`].
struct Whole(Arc<Parameter>);

impl CustomOp1 for Whole {
    fn name(&self) -> &'static str {
        "parameter"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((
            CpuStorage::F32(self.0.read()?.values.clone()),
            Shape::from(self.0.shape.as_slice()),
        ))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        self.0
            .add_gradient(&gradient.flatten_all()?.to_vec1::<f32>()?)?;
        Ok(None)
    }
}

/// What of a gradient is there; the rest is zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Nothing: no backward pass has reached the parameter.
    Nothing,
    /// Rows of a table, in ascending order.
    Rows(Vec<u32>),
    /// All of it.
    Whole,
}

impl Extent {
    /// Values of a gradient of this shape.
    pub fn n_values(&self, shape: &[usize]) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Rows(rows) => rows.len() * shape.last().copied().unwrap_or(1),
            Self::Whole => shape.iter().product(),
        }
    }
}

/// What a parameter is to the optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A matrix: weight decay applies.
    Matrix,
    /// A matrix that is looked up by row: weight decay applies, rows that no batch has seen wait.
    Table,
    /// A bias, or a scale or shift of a normalization: no weight decay.
    Plain,
}

/// Parameters by name, in the order in which they were made.
#[derive(Clone, Default)]
pub struct Parameters(Vec<Arc<Parameter>>);

impl Parameters {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a parameter.
    ///
    /// # Errors
    /// When the values do not fit the shape or the name is taken.
    pub fn insert(
        &mut self,
        name: &str,
        shape: &[usize],
        values: Vec<f32>,
        kind: Kind,
    ) -> Result<Arc<Parameter>> {
        if self.get(name).is_some() {
            candle_core::bail!("parameter `{name}` exists already");
        }
        let parameter = Parameter::new(name, shape, values, kind)?;
        self.0.push(parameter.clone());
        Ok(parameter)
    }

    /// Takes over the parameters of another model, which keeps them too; those that both hold are kept once.
    pub fn extend(&mut self, others: &Self) {
        for other in others.iter() {
            if !self.0.iter().any(|own| Arc::ptr_eq(own, other)) {
                self.0.push(other.clone());
            }
        }
    }

    /// The parameter of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Parameter>> {
        self.0.iter().find(|parameter| parameter.name == name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Parameter>> {
        self.0.iter()
    }

    /// Those of which `keep` is true, shared with `self`.
    pub fn filter(&self, mut keep: impl FnMut(&Parameter) -> bool) -> Self {
        Self(
            self.iter()
                .filter(|parameter| keep(parameter))
                .cloned()
                .collect(),
        )
    }

    /// Lets the rows of all tables take the steps that they have put off.
    ///
    /// # Errors
    /// A device's that a parameter is on.
    pub fn settle(&self) -> Result<()> {
        for parameter in self.iter() {
            drop(parameter.read()?);
        }
        Ok(())
    }

    /// Does work that looks at the values. Steps that rows have put off stay put off, whatever is read: a run that
    /// somebody looks at goes on as one that nobody does, bit for bit.
    pub fn look<R>(&self, work: impl FnOnce() -> R) -> R {
        let behind: Vec<_> = self.iter().filter_map(Parameter::behind).collect();
        let result = work();
        for (parameter, values, moments) in behind {
            let inner = &mut *parameter.write();
            (inner.values, inner.moments) = (values, Some(moments));
        }
        result
    }

    /// Forgets all gradients.
    pub fn clear_gradients(&self) {
        for parameter in self.iter() {
            let inner = &mut *parameter.write();
            inner.gradient.clear();
            if let Some(resident) = &mut inner.resident {
                resident.clear_gradient();
            }
        }
    }

    /// Writes all values in f32 to a safetensors file, under a temporary name first.
    ///
    /// # Errors
    /// [`TrainingError::Write`] naming the file.
    pub fn save(&self, path: &Path) -> std::result::Result<(), TrainingError> {
        self.save_as("", path)
    }

    /// Does as [`Self::save`] with those parameters whose names begin with a prefix, and leaves the prefix out.
    ///
    /// # Errors
    /// [`TrainingError::Write`] naming the file.
    pub fn save_as(&self, prefix: &str, path: &Path) -> std::result::Result<(), TrainingError> {
        let tensors = self.iter().filter_map(|parameter| {
            let name = parameter.name.strip_prefix(prefix)?;
            let tensor = |values| {
                (
                    name.to_owned(),
                    parameter.shape.clone(),
                    Stored::F32(values),
                )
            };
            Some(parameter.values().map(tensor))
        });
        save(path, tensors.collect::<Result<_>>()?)
    }

    /// Reads what [`Self::save`] wrote into these parameters.
    ///
    /// # Errors
    /// [`TrainingError::State`] when the file has not just these names and shapes; nothing is changed then.
    pub fn load(&self, path: &Path) -> std::result::Result<(), TrainingError> {
        let refuse = |reason: String| TrainingError::State {
            path: path.to_path_buf(),
            reason,
        };
        let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
        let tensors = safetensors::SafeTensors::deserialize(&bytes)
            .map_err(|error| refuse(error.to_string()))?;
        if let Some(name) = tensors
            .names()
            .into_iter()
            .find(|name| self.get(name).is_none())
        {
            return Err(refuse(format!("the model has no `{name}`")));
        }
        let read = |parameter: &Arc<Parameter>| {
            let tensor = tensors
                .tensor(&parameter.name)
                .map_err(|_| refuse(format!("`{}` is missing", parameter.name)))?;
            if tensor.dtype() != safetensors::Dtype::F32 || tensor.shape() != parameter.shape {
                return Err(refuse(format!(
                    "`{}` is {:?} {:?}, not F32 {:?}",
                    parameter.name,
                    tensor.dtype(),
                    tensor.shape(),
                    parameter.shape
                )));
            }
            let (floats, _) = tensor.data().as_chunks::<4>();
            Ok(floats
                .iter()
                .map(|&bytes| f32::from_le_bytes(bytes))
                .collect())
        };
        let values: Vec<Vec<f32>> = self
            .iter()
            .map(read)
            .collect::<std::result::Result<_, _>>()?;
        for (parameter, values) in self.iter().zip(values) {
            parameter.set_values(&values)?;
        }
        Ok(())
    }
}

/// Values of a tensor in a file.
pub(super) enum Stored {
    F32(Vec<f32>),
    F64(Vec<f64>),
    U64(Vec<u64>),
}

impl Stored {
    fn bytes(&self) -> (safetensors::Dtype, Vec<u8>) {
        match self {
            Self::F32(values) => (
                safetensors::Dtype::F32,
                values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            ),
            Self::F64(values) => (
                safetensors::Dtype::F64,
                values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            ),
            Self::U64(values) => (
                safetensors::Dtype::U64,
                values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect(),
            ),
        }
    }
}

/// Writes tensors to a safetensors file that is complete whenever it has its name.
pub(super) fn save(
    path: &Path,
    tensors: Vec<(String, Vec<usize>, Stored)>,
) -> std::result::Result<(), TrainingError> {
    let refuse = |source| TrainingError::Write {
        path: path.to_path_buf(),
        source,
    };
    let bytes: Vec<_> = tensors
        .iter()
        .map(|(_, _, values)| values.bytes())
        .collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), (dtype, bytes))| {
            let view =
                TensorView::new(*dtype, shape.clone(), bytes).expect("a parameter fits its shape");
            (name.clone(), view)
        });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]); // transformers asks for it
    let data = safetensors::serialize(views.collect::<Vec<_>>(), Some(metadata))
        .map_err(|error| refuse(std::io::Error::other(error)))?;
    let temporary = path.with_extension("safetensors.part");
    std::fs::write(&temporary, data).map_err(refuse)?;
    std::fs::rename(&temporary, path).map_err(refuse)
}
