//! Whether weights fit a network, and if not, why.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{DType, Device, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};

use crate::{
    Error, Result, did_you_mean,
    nn::{
        Backbone, Shape,
        weights::{WeightsHead, names},
    },
};

/// What files hold and no network of ours has: batch norm's step counter, and what a Swin transformer computes from its sizes.
const COMPUTED: [&str; 3] = ["num_batches_tracked", "relative_position_index", "attn_mask"];
/// First parts of the names of last layers in published files.
const HEADS: [&str; 6] = ["fc", "classifier", "head", "linear", "last_linear", "_fc"];

/// Why weights do not fit a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Names that the network has and the weights lack, sorted.
    pub missing: Vec<String>,
    /// Names that the weights have and the network lacks, sorted.
    pub unexpected: Vec<String>,
    /// (name, wanted sizes, given sizes) of tensors of another shape, sorted by name.
    pub wrong_shape: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl Mismatch {
    /// As an [`Error::Input`] that names the file the weights came from.
    pub fn in_file(&self, path: &Path) -> Error {
        Error::input(format!("the weights {} do not fit the network: {self}", path.display()))
            .hint("check that the network's kind and its depth are those of the weights")
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let near = |name: &str| did_you_mean(name, self.unexpected.iter().map(String::as_str));
        let groups = [
            ("missing", self.missing.iter().map(|name| format!("{name}{}", near(name))).collect::<Vec<_>>()),
            ("unexpected", self.unexpected.iter().map(|name| name.escape_debug().to_string()).collect()),
            (
                "of another shape",
                (self.wrong_shape.iter())
                    .map(|(name, wanted, given)| format!("{name} ({given:?} where {wanted:?} is wanted)"))
                    .collect(),
            ),
        ];
        let mut separator = "";
        for (what, names) in groups.iter().filter(|(_, names)| !names.is_empty()) {
            // A handful is enough to see what is going on.
            let shown = names.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = names.len().saturating_sub(5);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            write!(out, "{separator}{} {what}: {shown}{more}", names.len())?;
            separator = "; ";
        }
        Ok(())
    }
}

/// Whether `given` has exactly the tensors of `wanted` (sizes by name); batch norm's `num_batches_tracked` never counts, nor do a Swin
/// transformer's `relative_position_index` and `attn_mask`.
///
/// # Errors
/// All the differences at once.
pub fn match_names(wanted: &BTreeMap<String, Vec<usize>>, given: &BTreeMap<String, Tensor>) -> Result<(), Mismatch> {
    let wanted_names: BTreeSet<_> = wanted.keys().filter(|name| counts(name)).collect();
    let given_names: BTreeSet<_> = given.keys().filter(|name| counts(name)).collect();
    let mismatch = Mismatch {
        missing: wanted_names.difference(&given_names).map(|name| (*name).clone()).collect(),
        unexpected: given_names.difference(&wanted_names).map(|name| (*name).clone()).collect(),
        wrong_shape: wanted
            .iter()
            .filter(|(name, _)| counts(name))
            .filter_map(|(name, sizes)| Some((name, sizes, given.get(name)?.dims())))
            .filter(|(_, wanted, given)| wanted.as_slice() != *given)
            .map(|(name, wanted, given)| (name.clone(), wanted.clone(), given.to_vec()))
            .collect(),
    };
    if mismatch == Mismatch::default() { Ok(()) } else { Err(mismatch) }
}

fn counts(name: &str) -> bool {
    !name.rsplit('.').next().is_some_and(|last| COMPUTED.contains(&last))
}

/// Asks for all parameters of a network for images and classes of a shape.
pub type Build = Arc<dyn Fn(Shape, VarBuilder) -> Result<()> + Send + Sync>;

/// Our name for another program's name of a parameter.
pub type OurName = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The tensors that a network wants, and which of them depend on what.
#[derive(Clone)]
pub struct Wanted {
    build: Build,
    our_name: OurName,
    shape: Shape,
    sizes: BTreeMap<String, Vec<usize>>,
    /// What stands before the names of the backbone's own last layer, with its dot; empty without one.
    head: String,
    /// What stands before the names of what a file of the backbone's weights lacks, with its dot; empty without any.
    own: String,
}

/// Weights as a network takes them.
#[derive(Debug, Clone)]
pub struct Fitted {
    /// All of the network's tensors, but for the last layer's if that is to be new.
    pub tensors: BTreeMap<String, Tensor>,
    /// What was changed or left out, in words.
    pub notes: Vec<String>,
}

impl Wanted {
    /// The tensors of the network that `build` asks for, which has this backbone, for images and classes of `shape`. None of them is
    /// made.
    ///
    /// # Errors
    /// Those of `build`.
    pub fn of(build: Build, backbone: Option<&Backbone>, shape: Shape) -> Result<Self> {
        let head = match backbone {
            None => String::new(),
            // The backbone's own last layer says where the head is, whatever stands there in this network.
            Some(backbone) => {
                let recorder = Recorder::default();
                format!("{}.", backbone.extractor(shape, recorder.builder())?.last_layer(shape.classes.max(1)).name)
            }
        };
        let backbone = backbone.cloned();
        let our_name: OurName =
            Arc::new(move |theirs| backbone.as_ref().and_then(|backbone| backbone.our_name(theirs)));
        Ok(Self { sizes: sizes(&*build, shape)?, build, our_name, shape, head, own: String::new() })
    }

    /// The same with other names than the backbone's.
    #[must_use]
    pub fn named_by(self, our_name: OurName) -> Self {
        Self { our_name, ..self }
    }

    /// The same where a file need not have the parameters whose names begin with `own`: without any of them, they start anew.
    #[must_use]
    pub fn but(self, own: Option<&str>) -> Self {
        Self { own: own.map(|own| format!("{own}.")).unwrap_or_default(), ..self }
    }

    /// Whether this is a parameter that a file of the backbone's weights lacks.
    fn is_own(&self, name: &str) -> bool {
        !self.own.is_empty() && name.starts_with(&self.own)
    }

    /// Whether this is a parameter of the backbone's last layer.
    fn of_head(&self, name: &str) -> bool {
        !self.head.is_empty() && name.starts_with(&self.head)
    }

    /// The classes that the last layer of `tensors`, as in their file, is for; `None` without one.
    ///
    /// # Errors
    /// As [`nn::build`].
    pub fn classes(&self, tensors: &BTreeMap<String, Tensor>) -> Result<Option<usize>> {
        let tensors = self.named(tensors.clone());
        let by_class = self.axes(Shape { classes: self.shape.classes + 1, ..self.shape })?;
        let classes = |(name, axis): (&String, &usize)| {
            let given = tensors.tensors.get(name)?.dims().get(*axis).copied()?;
            // A table of classes has one row more, of none.
            let more = self.sizes.get(name)?.get(*axis)?.checked_sub(self.shape.classes)?;
            given.checked_sub(more)
        };
        Ok(by_class.iter().find_map(classes))
    }

    /// Brings tensors, named as in their file, to what this network takes.
    ///
    /// # Errors
    /// [`Error::Input`] naming `file` if they are not this network's, or one holds NaN or infinity or a variance below zero:
    /// what differs, and whether it is the classes, the channels or the size of the images.
    pub fn fit(&self, tensors: BTreeMap<String, Tensor>, head: WeightsHead, file: &Path) -> Result<Fitted> {
        let names::Named { mut tensors, mut notes } = self.named(tensors);
        tensors.retain(|name, _| counts(name));
        notes.extend(self.flatten(&mut tensors)?);
        let mut wanted = self.sizes.clone();
        if !tensors.keys().any(|name| self.is_own(name)) {
            wanted.retain(|name, _| !self.is_own(name));
        }
        // Of features alone, a file's head is no part.
        let features_alone = !self.head.is_empty() && !wanted.keys().any(|name| self.of_head(name));
        if head == WeightsHead::New || features_alone {
            wanted.retain(|name, _| !self.of_head(name));
            let left_out = |name: &String| {
                let first = name.split('.').next().unwrap_or_default();
                self.of_head(name) || (HEADS.contains(&first) && !wanted.contains_key(name))
            };
            let rows =
                tensors.iter().find_map(|(name, tensor)| left_out(name).then(|| tensor.dims().first().copied())?);
            tensors.retain(|name, _| !left_out(name));
            notes.extend(match rows {
                None if features_alone => None,
                Some(rows) if features_alone => Some(format!("the head of {rows} classes is left out")),
                Some(rows) => Some(format!(
                    "the head of {rows} classes is left out; a new one for {} is to be learned",
                    self.shape.classes
                )),
                None => {
                    Some(format!("the file has no head; a new one for {} classes is to be learned", self.shape.classes))
                }
            });
        }
        if let Err(mismatch) = match_names(&wanted, &tensors) {
            return Err(self.explained(mismatch, &tensors, file)?);
        }
        for (name, tensor) in &mut tensors {
            *tensor = usable(name, tensor)
                .map_err(|reason| Error::input(format!("cannot use the weights {}: {reason}", file.display())))?;
        }
        Ok(Fitted { tensors, notes })
    }

    /// The error of weights that do not fit, with the cause where the sizes give it away.
    fn explained(&self, mut mismatch: Mismatch, tensors: &BTreeMap<String, Tensor>, file: &Path) -> Result<Error> {
        let Shape { channels, height, width, classes } = self.shape;
        let mut causes = Vec::new();
        let mut hint = None;
        let by_class = self.axes(Shape { classes: classes + 1, ..self.shape })?;
        let more =
            |name: &String| by_class.get(name).and_then(|axis| self.sizes[name].get(*axis)?.checked_sub(classes));
        let of_none = by_class.keys().find_map(more).unwrap_or_default();
        if let Some(given) = take(&mut mismatch, &by_class).map(|given| given.saturating_sub(of_none)) {
            causes.push(format!("its head has {given} classes where the data have {classes}"));
            hint = Some("`weights: { file: …, head: new }` with `train` learns a head for the classes of the data");
        }
        let by_channel = self.axes(Shape { channels: channels + 1, ..self.shape })?;
        if let Some(given) = take(&mut mismatch, &by_channel) {
            causes.push(format!("it is for images of {given} channels where the data have {channels}"));
            hint.get_or_insert(
                "`mean` and `std` of the ID set, one value a channel, say how many channels its images have",
            );
        }
        // Of twice the size: a whole number of patches stays one.
        let larger = Shape { height: 2 * height, width: 2 * width, ..self.shape };
        if take(&mut mismatch, &self.axes(larger)?).is_some() {
            causes.push(format!("it is for images of another size than {height}×{width}"));
            hint.get_or_insert("give the ID set images of the size that the weights were trained on");
        }
        let head: Vec<_> = self.sizes.keys().filter(|name| self.of_head(name)).collect();
        let headless = !head.is_empty() && head.iter().all(|name| !tensors.contains_key(*name));
        if headless && mismatch.unexpected.is_empty() && mismatch.missing.len() == head.len() {
            causes.push(format!("it has no head ({} are missing)", mismatch.missing.join(", ")));
            mismatch.missing.clear();
            hint = Some("`weights: { file: …, head: new }` with `train` learns one");
        }
        let of = |part: &str| mismatch.wrong_shape.iter().any(|(name, ..)| name.ends_with(part));
        if of("pos_embed") {
            hint.get_or_insert(
                "`vit: { pretrained_size: … }` is the size of the images that the weights were trained on",
            );
        } else if of("relative_position_bias_table") {
            hint.get_or_insert("`swin: { window: … }` is the window that the weights were trained with");
        }
        if mismatch != Mismatch::default() {
            causes.push(mismatch.to_string());
        }
        let error =
            Error::input(format!("the weights {} do not fit the network: {}", file.display(), causes.join("; ")));
        Ok(error.hint(hint.unwrap_or("check that the network's kind and its depth are those of the weights")))
    }

    fn named(&self, tensors: BTreeMap<String, Tensor>) -> names::Named {
        names::ours(tensors, &*self.our_name, |name| self.sizes.contains_key(name))
    }

    /// Brings layers of one position to the rank that is wanted: linear layers and 1×1 convolutions in each other's places; a note if there are
    /// any.
    fn flatten(&self, tensors: &mut BTreeMap<String, Tensor>) -> Result<Option<String>> {
        // Outputs and inputs, if all other sizes are 1.
        let of_one = |sizes: &[usize]| match sizes {
            [outputs, inputs, rest @ ..] if rest.iter().all(|size| *size == 1) => Some([*outputs, *inputs]),
            _ => None,
        };
        let mut first = None;
        for (name, tensor) in tensors {
            let Some(wanted) = self.sizes.get(name) else { continue };
            let pair = of_one(wanted);
            if pair.is_some() && tensor.rank() > 2 && wanted != tensor.dims() && pair == of_one(tensor.dims()) {
                *tensor = tensor.reshape(wanted.as_slice())?;
                first = first.or(Some((name, wanted.len())));
            }
        }
        Ok(first.map(|(name, rank)| match rank {
            2 => format!("1×1 convolutions are taken as linear layers, such as {name}"),
            _ => format!("convolutions of one position are taken as 1×1 convolutions, such as {name}"),
        }))
    }

    /// The tensors that are of another size in a network of `other` shape, and the axis.
    fn axes(&self, other: Shape) -> Result<BTreeMap<String, usize>> {
        let other = sizes(&*self.build, other)?;
        let axis = |(name, sizes): (&String, &Vec<usize>)| {
            let axis = sizes.iter().zip(other.get(name)?).position(|(one, other)| one != other)?;
            Some((name.clone(), axis))
        };
        Ok(self.sizes.iter().filter_map(axis).collect())
    }
}

/// Takes from a mismatch the tensors that differ in nothing but the axis given for them; the size that the first of them has.
fn take(mismatch: &mut Mismatch, axes: &BTreeMap<String, usize>) -> Option<usize> {
    let mut found = None;
    mismatch.wrong_shape.retain(|(name, wanted, given)| {
        let Some(&axis) = axes.get(name).filter(|_| wanted.len() == given.len()) else { return true };
        let differs = |(index, (one, other)): (usize, (&usize, &usize))| index != axis && one != other;
        if wanted.iter().zip(given).enumerate().any(differs) {
            return true;
        }
        found = found.or(given.get(axis).copied());
        false
    });
    found
}

/// A tensor as networks hold it, f32; an error says what is wrong with its values.
fn usable(name: &str, tensor: &Tensor) -> Result<Tensor, String> {
    let inner = |error: candle_core::Error| format!("tensor {name}: {error}");
    let tensor = tensor.to_dtype(DType::F32).map_err(inner)?;
    let values = tensor.flatten_all().and_then(|values| values.to_vec1::<f32>()).map_err(inner)?;
    if let Some(at) = values.iter().position(|value| !value.is_finite()) {
        let value = if values[at].is_nan() { "NaN" } else { "infinity" };
        return Err(format!("tensor {name} holds {value} (element {at} of {})", values.len()));
    }
    if name.ends_with("running_var")
        && let Some(value) = values.iter().find(|value| **value < 0.0)
    {
        return Err(format!("tensor {name} holds {value}, and a variance is not below zero"));
    }
    Ok(tensor)
}

/// The sizes of a network's tensors by name; none is made.
///
/// # Errors
/// Those of `build`.
pub fn sizes(build: &dyn Fn(Shape, VarBuilder) -> Result<()>, shape: Shape) -> Result<BTreeMap<String, Vec<usize>>> {
    let recorder = Recorder::default();
    build(shape, recorder.builder())?;
    let sizes = recorder.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(sizes.clone())
}

/// Writes down which tensors a network asks for, and gives it zeros.
#[derive(Debug, Clone, Default)]
struct Recorder(Arc<Mutex<BTreeMap<String, Vec<usize>>>>);

impl Recorder {
    fn builder(&self) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), DType::F32, Device::Cpu)
    }
}

impl SimpleBackend for Recorder {
    fn get(
        &self,
        shape: candle_core::Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut sizes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.insert(name.to_owned(), shape.dims().to_vec());
        Tensor::zeros(shape, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let sizes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match sizes.get(name) {
            Some(sizes) => Tensor::zeros(sizes.as_slice(), dtype, device),
            None => candle_core::bail!("parameter {name} has no shape yet"),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name)
    }
}
