//! Whether the networks have the layers that detectors and figures name, and whether the fits have images, features and memory
//! enough, before any network is trained.

use std::{
    cell::{OnceCell, RefCell},
    collections::{BTreeMap, BTreeSet},
    path::Path,
    rc::Rc,
    time::Instant,
};

use candle_core::{DType, Device, Tensor};
use indexmap::IndexMap;
use serde_json::json;

use crate::{
    Error, Result,
    config::{
        Experiment,
        search::{combinations, in_words, with},
    },
    data::{self, Dataset, Format, Split},
    detectors::{About, Denoises, LayerShape, Refusal},
    nn::{Model, Pass, Shape, Shown, params::Params, pass::Side},
    run::{
        execute::Runner,
        plan::{Node, Plan, to_json},
        store::Progress,
        view::viewed,
    },
};

/// The shape of a network's images, and how many train images a detector learns from, if that is known.
type Images = (Shape, Option<usize>);

/// What a network gives of one image, whatever its weights.
struct Known {
    layers: Vec<LayerShape>,
    shown: Shown,
    denoiser: Option<Denoises>,
    /// Itself, untrained, and an image.
    network: Box<dyn Model>,
    image: Tensor,
    /// As [`Known::cost`], once it is known.
    cost: OnceCell<Cost>,
}

/// Images that a denoiser is timed on, together, and how often: the shortest time counts.
const TIMED: usize = 16;
/// Seconds of an evaluation that is not timed again.
const LONG: f64 = 0.1;
const TIMES: usize = 3;

/// What an evaluation of a denoiser costs an image.
#[derive(Clone, Copy)]
struct Cost {
    seconds: f64,
    /// Multiplications, each with an addition.
    products: u64,
}

impl Known {
    /// What an evaluation of a denoiser costs here, on the CPU.
    fn cost(&self) -> Result<Option<Cost>> {
        let Some(denoiser) = self.network.denoiser() else { return Ok(None) };
        if let Some(cost) = self.cost.get() {
            return Ok(Some(*cost));
        }
        let begun = Instant::now();
        let products = denoiser.products(&self.image)?;
        // The first call makes what later ones find, which is little of a long one.
        let mut seconds = begun.elapsed().as_secs_f64();
        if seconds < LONG {
            let images = self.image.repeat((TIMED, 1, 1, 1))?;
            let classes = denoiser.needs_class().then(|| vec![0; TIMED]);
            for _ in 0..TIMES {
                let begun = Instant::now();
                denoiser.output(&images, 0.0, classes.as_deref())?;
                seconds = seconds.min(begun.elapsed().as_secs_f64() / TIMED as f64);
            }
        }
        Ok(Some(*self.cost.get_or_init(|| Cost { seconds, products })))
    }
}

/// The evaluations of a denoiser that a method needs.
struct Evaluations {
    /// For an image, at least and at most.
    images: [usize; 2],
    /// Of one.
    cost: Option<Cost>,
    /// Of all cells and seeds: test images and seconds, if that is known.
    all: Option<(usize, f64)>,
}

impl Evaluations {
    /// `288 evaluations of a denoiser an image, 22.0 GFLOP: 0.42 s an image, 0.9 h for 8000 test images on this CPU`.
    fn in_words(&self) -> String {
        let [least, most] = self.images;
        let count = if least == most { least.to_string() } else { format!("{least} to {most}") };
        let cost = self.cost.map(|Cost { seconds, products }| {
            let an_image = seconds * most as f64;
            let flops = 2.0 * products as f64 * most as f64 / 1e9;
            let all = self.all.filter(|(images, _)| *images > 0).map(|(images, seconds)| {
                let hours = seconds / 3600.0;
                format!(
                    ", {} for {images} test images",
                    if hours < 0.1 { format!("{:.1} min", 60.0 * hours) } else { format!("{hours:.1} h") }
                )
            });
            format!(", {flops:.3} GFLOP: {an_image:.3} s an image{} on this CPU", all.unwrap_or_default())
        });
        format!("{count} evaluations of a denoiser an image{}", cost.unwrap_or_default())
    }
}

/// Refuses makers of outliers whose pastes are larger than the images, detectors and figures of layers or neurons that the networks do not
/// have, more neighbours than train images, directions that leave none of the features', and too little memory for a fit. It goes as far as
/// the shape and the number of the images are known without reading them. It gives what the fits hold that take memory by the images' size,
/// what the maps take on disk, and what denoisers cost, a line each; with a data root, images are counted there.
///
/// # Errors
/// [`crate::Error::Input`] naming the file, the key and what there is, or the least memory.
pub fn check(plan: &Plan, root: Option<&Path>) -> Result<Vec<String>> {
    check_counting(plan, &|set, split| Some(data::glance(set, split, root?)?.0), true)
}

/// Refuses the same without data, and times nothing.
///
/// # Errors
/// As [`check`].
pub fn refuse(plan: &Plan) -> Result<()> {
    check_counting(plan, &|_, _| None, false).map(|_| ())
}

/// The same with what counts the images of a folder, which is asked once of each; with `costs`, what denoisers take is measured.
fn check_counting(plan: &Plan, count: &dyn Fn(&Dataset, Split) -> Option<usize>, costs: bool) -> Result<Vec<String>> {
    let counted: RefCell<Vec<(Dataset, Split, Option<usize>)>> = RefCell::default();
    let count = |set: &Dataset, split: Split| -> Option<usize> {
        let known =
            counted.borrow().iter().find(|(known, of, _)| known == set && *of == split).map(|(.., count)| *count);
        known.unwrap_or_else(|| {
            let count = count(set, split);
            counted.borrow_mut().push((set.clone(), split, count));
            count
        })
    };
    let complete = |set: &Dataset, split: Split| data::full_size(set, split).filter(|_| !data::embedded(set));
    let images = &mut |experiment: &Experiment, node: &Node| {
        let id = &experiment.data.id;
        let known = || {
            // A network with data of its own is fed images as those it is used on.
            let fed = if node.shared { id } else { &node.data };
            let [channels, height, width] = data::shape(fed)?;
            let category = id.format.is_some_and(Format::has_categories);
            let classes = data::classes(fed).or(category.then_some(1))?;
            let all = complete(fed, Split::Train).or_else(|| if category { count(id, Split::Train) } else { None });
            Some((Shape { channels, height, width, classes }, all.into_iter().chain(fed.train_limit).min()))
        };
        Ok(known())
    };
    let tested = |experiment: &Experiment| -> Option<usize> {
        let data = &experiment.data;
        let count = |set: &Dataset| {
            let all = complete(set, Split::Test).or_else(|| count(set, Split::Test))?;
            Some(set.test_limit.map_or(all, |limit| all.min(limit)))
        };
        std::iter::once(&data.id).chain(&data.ood_sets()).chain(&data.shifted).map(count).sum()
    };
    check_with(plan, images, costs.then_some(&tested as &Tested<'_>))
}

impl Runner<'_> {
    /// The same of the images that there are.
    ///
    /// # Errors
    /// As [`check`]; those of reading the images.
    pub(super) fn check_layers(&mut self) -> Result<()> {
        let plan = self.plan;
        let images = &mut |experiment: &Experiment, node: &Node| {
            let id = &experiment.data.id;
            let shape = self.shape(id)?;
            let store = &self.context.store;
            let train = match (store.progress(node), &node.train) {
                // Its train images may be gone, and all scores be there.
                (Progress::Done, Some(recipe)) => Some(store.record(node)?.train_images + recipe.validation),
                (Progress::Done, None) => None,
                _ => Some(self.train_images(id)?.images.len()),
            };
            Ok(Some((shape, train)))
        };
        check_with(plan, images, None).map(|_| ())
    }
}

/// How many images an experiment scores, if that is known.
type Tested<'a> = dyn Fn(&Experiment) -> Option<usize> + 'a;

fn check_with(
    plan: &Plan,
    images: &mut dyn FnMut(&Experiment, &Node) -> Result<Option<Images>>,
    tested: Option<&Tested<'_>>,
) -> Result<Vec<String>> {
    // Of each method, the least and the most MiB that a fit holds, with the first place that has it.
    let mut held: IndexMap<String, [(u64, String); 2]> = IndexMap::new();
    // Of each method, the grid of its maps and how many there will be.
    let mut maps: IndexMap<String, ([usize; 2], Option<usize>)> = IndexMap::new();
    // Of each method, what a denoiser is asked for.
    let mut evaluations: IndexMap<String, Evaluations> = IndexMap::new();
    // What is scored; the same in two cells is scored once.
    let mut scored: BTreeSet<String> = BTreeSet::new();
    let file = plan.path.display();
    // By architecture: to make a network takes a moment.
    let mut known: BTreeMap<String, Rc<Known>> = BTreeMap::new();
    for (cell, task) in plan.cells.iter().flat_map(|cell| cell.tasks.iter().map(move |task| (cell, task))) {
        let experiment = &task.experiment;
        for (network, node) in task.networks.iter().flatten() {
            let node = node.first().map(|&node| &plan.nodes[node]);
            let outliers = |node: &Node| Some(node.train.as_ref()?.outliers.as_ref()?.make.clone());
            let Some((node, make)) = node.and_then(|node| Some((node, outliers(node)?))) else { continue };
            let Some((shape, _)) = images(experiment, node)? else { continue };
            for (index, maker) in make.iter().enumerate() {
                let place = format!("{file}: networks.{network}.train.outliers.make.{index}.{}", maker.name());
                let whole = [shape.height, shape.width];
                let [height, width] = node.model.window().map_or(whole, |side| [side; 2]);
                maker
                    .check([shape.channels, height, width])
                    .map_err(|problem| Error::input(format!("{place}.{problem}")))?;
            }
        }
        let mut of = |network: &str| -> Result<Option<(Rc<Known>, Option<usize>)>> {
            let node = task.networks.first().and_then(|networks| networks.get(network)?.first());
            let Some(node) = node.map(|&node| &plan.nodes[node]) else { return Ok(None) };
            let Some((shape, train)) = images(experiment, node)? else { return Ok(None) };
            let key = format!("{}{shape:?}", to_json(&node.model)?);
            if !known.contains_key(&key) {
                let shown = show(node, shape).map_err(|error| error.at(&format!("{file}: networks.{network}")))?;
                known.insert(key.clone(), Rc::new(shown));
            }
            Ok(known.get(&key).map(|shown| (shown.clone(), train)))
        };
        for method in experiment.methods() {
            if method.detector.detector().depends().is_none() && method.detector.post().is_none() {
                continue;
            }
            let Some((network, train)) = of(&method.network)? else { continue };
            let place = format!("{file}: methods.{}.detector.{}", method.entry, method.detector.name());
            let memory = experiment.evaluation.fit_memory << 20;
            for values in combinations(&method.search) {
                let tried = match values.is_empty() {
                    true => method.detector.clone(),
                    false => with(&method.detector, &values).map_err(Error::input)?,
                };
                let name = tried.detector().second().and_then(|second| second.network.map(str::to_owned));
                let of_seed = |networks: &BTreeMap<String, Vec<usize>>| {
                    let second = name.as_ref().and_then(|name| networks.get(name));
                    [networks.get(&method.network), second].map(|nodes| nodes.cloned())
                };
                let networks: Vec<_> = task.networks.iter().map(of_seed).collect();
                let second = match &name {
                    None => None,
                    Some(name) => of(name)?.map(|(second, _)| second),
                };
                let read = second.as_ref().unwrap_or(&network);
                let denoiser = read.denoiser;
                let about = About { layers: &network.layers, shown: &network.shown, denoiser, train, memory };
                let what = json!([method.name, tried, networks, experiment.data]).to_string();
                if let Some(tested) = tested
                    && let Some(count) = denoiser.and_then(|denoiser| tried.detector().evaluations(denoiser))
                {
                    let cost = read.cost()?;
                    let first = Evaluations { images: [count; 2], cost, all: Some((0, 0.0)) };
                    let needed = evaluations.entry(method.name.clone()).or_insert(first);
                    let [least, most] = needed.images;
                    needed.images = [least.min(count), most.max(count)];
                    // Of a search the best is scored, whichever it will be.
                    if values.is_empty() && scored.insert(format!("denoised {what}")) {
                        let images = tested(experiment).map(|images| images * experiment.seeds.len());
                        let more =
                            images.zip(cost).map(|(images, cost)| (images, (images * count) as f64 * cost.seconds));
                        needed.all = needed.all.zip(more).map(|(all, more)| (all.0 + more.0, all.1 + more.1));
                    }
                }
                if let Some(grid) = tried.detector().grid(&network.shown).filter(|_| scored.insert(what)) {
                    let count =
                        tested.and_then(|tested| tested(experiment)).map(|images| images * experiment.seeds.len());
                    let known = maps.entry(method.name.clone()).or_insert((grid, Some(0)));
                    known.1 = known.1.zip(count).map(|(known, count)| known + count);
                }
                let bytes = match tried.detector().depends().map(|check| check(about)) {
                    // Of all detectors, one that cannot be fitted is a row that says why.
                    Some(Err(Refusal { error: Error::Input { .. }, .. })) if method.of_all => continue,
                    Some(Err(Refusal { key: Some(key), error })) => return Err(error.at(&format!("{place}.{key}"))),
                    Some(Err(Refusal { key: None, error })) => {
                        let id = &experiment.data.id;
                        return Err(match &id.path {
                            Some(folder) if plan.experiment.data.has_categories() => {
                                error.at(&format!("{place}: category \"{}\" in {}", id.name, folder.display()))
                            }
                            _ => error.at(&place),
                        });
                    }
                    Some(Ok(Some(bytes))) => bytes,
                    Some(Ok(None)) | None => continue,
                };
                let of_task = (cell.tasks.len() > 1).then(|| task.name().to_owned());
                let of_cell = (plan.cells.len() > 1).then(|| cell.name.clone());
                let of_values = (!values.is_empty()).then(|| in_words(&values));
                let place: Vec<String> = [of_task, of_cell, of_values].into_iter().flatten().collect();
                let new = ((bytes as u64).div_ceil(1 << 20), place.join(", "));
                let [least, most] = held.entry(method.name.clone()).or_insert_with(|| [new.clone(), new.clone()]);
                if new.0 < least.0 {
                    *least = new;
                } else if new.0 > most.0 {
                    *most = new;
                }
            }
        }
        for (index, figure) in experiment.figures.iter().enumerate() {
            if let Some((method, view)) = viewed(experiment, figure)
                && let Some(views) = method.detector.detector().views()
                && let Some((shown, _)) = of(&method.network)?
            {
                views.check(view, &shown.layers).map_err(|error| error.at(&format!("{file}: figures.{index}")))?;
            }
        }
    }
    let held = held.into_iter().map(|(name, [least, most])| match least.0 == most.0 {
        true => format!("fit of {name}: holds {} MiB at its peak", most.0),
        false => {
            format!("fit of {name}: holds {} MiB at its peak ({}) to {} MiB ({})", least.0, least.1, most.0, most.1)
        }
    });
    let maps = maps.iter().map(|(name, ([rows, columns], count))| match count {
        Some(count) => {
            let bytes = (count * rows * columns * size_of::<f32>()) as u64;
            format!("maps of {name}: {count} of {rows}×{columns}, {} on disk", data::size(bytes))
        }
        None => format!("maps of {name}: {rows}×{columns}, {} bytes an image", rows * columns * size_of::<f32>()),
    });
    let evaluations = evaluations.iter().map(|(name, needed)| format!("denoising of {name}: {}", needed.in_words()));
    Ok(held.chain(maps).chain(evaluations).collect())
}

/// An untrained network, shown an image.
fn show(node: &Node, shape: Shape) -> Result<Known> {
    let params = Params::new(node.seed, &Device::Cpu);
    let network = node.model.build(shape, params.builder())?;
    let image = Tensor::zeros((1, shape.channels, shape.height, shape.width), DType::F32, &Device::Cpu)?;
    let pass = Pass::eval().keeping_layers(Side::Before).sketching();
    let shown = network.show(&image, &pass)?;
    let denoiser = network.denoiser().map(Denoises::of);
    let layers = shown.layers.iter().map(LayerShape::from).collect();
    Ok(Known { layers, shown, denoiser, network, image, cost: OnceCell::new() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::load::{Loaded, parse},
        run::{
            plan::{Places, plan},
            store::Store,
        },
    };

    /// Two methods that give maps, one of them searched, in two cells: each folder of each task is counted once.
    #[test]
    fn a_folder_is_counted_once() {
        let plan = parts();
        let asked = RefCell::new(BTreeMap::<(String, String), usize>::new());
        let count = |set: &Dataset, split: Split| {
            let folder = (set.path.as_ref().unwrap().display().to_string(), format!("{split} {:?}", set.kind));
            *asked.borrow_mut().entry(folder).or_default() += 1;
            Some(10)
        };
        let lines = check_counting(&plan, &count, true).unwrap();
        // Of each category the normal train and test images, and one kind of anomaly.
        assert_eq!(asked.borrow().len(), 2 * 3, "{asked:?}");
        assert!(asked.borrow().values().all(|times| *times == 1), "{asked:?}");
        // In three cells and two categories, 10 normal and 10 anomalous images; the sweep does not reach PatchCore.
        let has = |start: &str| lines.iter().any(|line| line.starts_with(start));
        assert!(has("maps of PaDiM: 120 of 14×14") && has("maps of PatchCore: 40 of "), "{lines:?}");
    }

    /// What a fit holds depends on how many images a category has: the least and the most are told, each with its place.
    #[test]
    fn a_fit_is_told_of_once_with_its_places() {
        let count =
            |set: &Dataset, _: Split| Some(if set.path.as_ref().unwrap().ends_with("nut") { 2000 } else { 100 });
        let lines = check_counting(&parts(), &count, true).unwrap();
        let of = |name: &str| lines.iter().filter(|line| line.starts_with(name)).cloned().collect::<Vec<_>>();
        let fits = of("fit of PatchCore: ");
        assert_eq!(fits.len(), 1, "{lines:?}");
        let places = ["(bolt, seed=0) to ", "(nut, seed=0)"];
        assert!(places.iter().all(|place| fits[0].contains(place)), "{fits:?}");
        assert!(of("fit of PaDiM: ").iter().all(|line| line.ends_with(" MiB at its peak")), "{lines:?}");
    }

    /// PaDiM and PatchCore on two categories, in three cells that PatchCore is the same in.
    fn parts() -> Plan {
        let text = "{ title: Parts, data: { format: mvtec, size: 32, categories: [bolt, nut] }, networks: { base: { backbone: lenet, data: \
                    fashion_mnist, train: { epochs: 1, batch_size: 8, optimizer: { sgd: { lr: 0.1 } } } } }, methods: [{ name: PaDiM, network: \
                    base, detector: { padim: { dimensions: 4 } } }, { name: PatchCore, network: base, detector: patchcore }], sweep: { \
                    methods.0.detector.padim.seed: [0, 1, 2] } }";
        let path = "parts.yaml".into();
        let loaded = Loaded { name: "parts".into(), path, experiment: parse(text, "parts").unwrap() };
        let store = Store::new("runs");
        plan(&loaded, &Places { data: None, weights: Path::new(""), store: &store }).unwrap()
    }
}
