//! One forward pass over an image set for all who look at it: the stored outputs, and the detectors that read layers.
//!
//! Each detector runs in a thread of its own and asks for passes as ever. A pass begins when nobody works any more but all wait, over the
//! first set that somebody waits for; every batch is handed to all who do, and the next is not computed before they have looked at it,
//! so that one batch is in memory at a time.

use std::{
    collections::BTreeSet,
    fmt,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    time::{Duration, Instant},
};

use candle_core::{Device, Tensor};

use crate::{
    Error, Result,
    config::Method,
    detectors::{Activations, Bank, Fit, LayerShape, Need},
    nn::{Shown, pass::Side},
    run::{
        bank::{ForwardPass, Kept, Stored},
        execute::Runner,
        scoring::{Place, Scoring},
        sets::LoadedSet,
        subject::{Subject, stored_outputs},
    },
};

/// A batch and the place of its first image; `None` after the last.
type Sent = Option<(usize, Arc<Shown>)>;

/// What a looker tells who computes.
enum Message {
    /// It waits for a pass over this set.
    Wish(Wish),
    /// It is done with a batch; whether it wants the next.
    Looked { looker: usize, more: bool },
    /// It is done altogether.
    Gone { looker: usize },
}

/// Who waits for a pass.
struct Wish {
    looker: usize,
    set: usize,
    /// Whether it looks at layers, and not only at what leaves the stages.
    layers: bool,
    batches: SyncSender<Sent>,
}

/// A detector's side.
struct Looker {
    index: usize,
    passes: Vec<Arc<ForwardPass>>,
    messages: Sender<Message>,
    /// How long it waited for batches.
    waited: Arc<Mutex<Duration>>,
    /// Whether it looks at a pass.
    looks: Arc<AtomicBool>,
}

impl Drop for Looker {
    fn drop(&mut self) {
        // Nobody listens where the computing side has failed.
        let _ = self.messages.send(Message::Gone { looker: self.index });
    }
}

impl Looker {
    /// A set's layers, with outputs in their batches alone.
    fn bank(&self, set: usize) -> Result<Bank> {
        let shared = Shared {
            looker: self.index,
            set,
            pass: self.passes[set].clone(),
            messages: self.messages.clone(),
            waited: self.waited.clone(),
            looks: self.looks.clone(),
        };
        let none = Tensor::zeros((0, 0), candle_core::DType::F32, &Device::Cpu)?;
        Ok(Bank {
            logits: none.clone(),
            features: none,
            members: None,
            labels: self.passes[set].images.labels.clone(),
            activations: Some(Arc::new(shared)),
            inputs: None,
        })
    }

    fn waited(&self) -> Duration {
        *self.waited.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Layers of a set in passes that others look at too.
struct Shared {
    looker: usize,
    set: usize,
    pass: Arc<ForwardPass>,
    messages: Sender<Message>,
    waited: Arc<Mutex<Duration>>,
    looks: Arc<AtomicBool>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Shared").field(&self.pass).finish()
    }
}

impl Shared {
    fn tell(&self, message: Message) -> Result<()> {
        // Who computes has failed, and says why.
        self.messages.send(message).map_err(|_| Error::Interrupted)
    }
}

impl Activations for Shared {
    fn images(&self) -> usize {
        Activations::images(&*self.pass)
    }

    fn layers(&self) -> Result<Vec<LayerShape>> {
        self.pass.layers()
    }

    fn pass(&self, _: &str, each: &mut dyn FnMut(usize, &Shown) -> Result<()>) -> Result<()> {
        self.look(true, each)
    }

    fn stages(&self, _: &str, each: &mut dyn FnMut(usize, &Shown) -> Result<()>) -> Result<()> {
        self.look(false, each)
    }

    fn image_size(&self) -> Option<[usize; 2]> {
        self.pass.image_size()
    }

    fn work(&self, what: &str, steps: usize, each: &mut dyn FnMut(Range<usize>) -> Result<()>) -> Result<()> {
        self.pass.work(what, steps, each)
    }

    fn subset(&self, images: &[usize]) -> Result<Arc<dyn Activations>> {
        Activations::subset(&*self.pass, images)
    }
}

impl Shared {
    fn look(&self, layers: bool, each: &mut dyn FnMut(usize, &Shown) -> Result<()>) -> Result<()> {
        // It would wait for a batch that is not computed before it has looked at this one.
        if self.looks.swap(true, Ordering::SeqCst) {
            return Err(Error::Failed("a detector asks for a pass within a pass".into()));
        }
        let looked = self.look_at_each(layers, each);
        self.looks.store(false, Ordering::SeqCst);
        looked
    }

    fn look_at_each(&self, layers: bool, each: &mut dyn FnMut(usize, &Shown) -> Result<()>) -> Result<()> {
        let (sender, batches) = sync_channel(1);
        self.tell(Message::Wish(Wish { looker: self.looker, set: self.set, layers, batches: sender }))?;
        loop {
            let begun = Instant::now();
            let received = batches.recv();
            *self.waited.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += begun.elapsed();
            let Some((start, batch)) = received.map_err(|_| Error::Interrupted)? else { return Ok(()) };
            let looked = each(start, &batch);
            drop(batch);
            self.tell(Message::Looked { looker: self.looker, more: looked.is_ok() })?;
            looked?;
        }
    }
}

/// Who computes.
struct Passes<'a> {
    passes: &'a [Arc<ForwardPass>],
    messages: Receiver<Message>,
    /// Who works or waits.
    lookers: BTreeSet<usize>,
    waiting: Vec<Wish>,
}

impl Passes<'_> {
    /// Computes passes until nobody is left; the outputs of the sets of `outputs` are stored at their paths.
    fn run(mut self, names: &[&str], outputs: &[(usize, Stored)]) -> Result<()> {
        let mut outputs = outputs.iter().peekable();
        loop {
            while self.waiting.len() < self.lookers.len() {
                self.listen()?;
            }
            let wished = self.waiting.iter().map(|wish| wish.set).min();
            let Some(set) = wished.into_iter().chain(outputs.peek().map(|(set, _)| *set)).min() else { return Ok(()) };
            let store = outputs.next_if(|(stored, _)| *stored == set);
            self.pass(set, names, store.map(|(_, stored)| stored))?;
        }
    }

    /// The next message; the looker that has looked at its batch, and whether it wants more.
    fn listen(&mut self) -> Result<Option<(usize, bool)>> {
        match self.messages.recv() {
            Ok(Message::Wish(wish)) => self.waiting.push(wish),
            Ok(Message::Looked { looker, more }) => return Ok(Some((looker, more))),
            Ok(Message::Gone { looker }) => {
                self.lookers.remove(&looker);
                return Ok(Some((looker, false)));
            }
            Err(_) => return Err(Error::Failed("detectors ended without a word".into())),
        }
        Ok(None)
    }

    fn pass(&mut self, set: usize, names: &[&str], store: Option<&Stored>) -> Result<()> {
        let (mut looking, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|wish| wish.set == set);
        self.waiting = waiting;
        let pass = self.passes[set].clone();
        let looked_at_by = looking.iter().map(|wish| names[wish.looker]).collect::<Vec<_>>().join(", ");
        let layers = looking.iter().any(|wish| wish.layers);
        let mut kept = Kept::default();
        pass.look(&format!("looking with {looked_at_by}"), layers, &mut |start, batch| {
            if store.is_some() {
                kept.add(batch)?;
            }
            let batch = Arc::new(batch.clone());
            looking.retain(|wish| wish.batches.send(Some((start, batch.clone()))).is_ok());
            drop(batch);
            let mut busy: BTreeSet<usize> = looking.iter().map(|wish| wish.looker).collect();
            while !busy.is_empty() {
                if let Some((looker, more)) = self.listen()? {
                    busy.remove(&looker);
                    looking.retain(|wish| more || wish.looker != looker);
                }
            }
            Ok(())
        })?;
        for wish in looking {
            // It may have failed at the last batch.
            let _ = wish.batches.send(None);
        }
        match store {
            Some(stored) => stored.write(&pass.bank_of(kept)?),
            None => Ok(()),
        }
    }
}

/// Lets `look` work for every one of `names` in a thread of its own, which is told by its index; the outputs of the sets of `outputs`, in
/// order, are stored at their paths.
///
/// # Errors
/// Those of the passes, or else the first that a looker ends with.
fn together(
    passes: &[Arc<ForwardPass>],
    names: &[&str],
    outputs: &[(usize, Stored)],
    look: &(impl Fn(&Looker) -> Result<()> + Sync),
) -> Result<()> {
    let (sender, messages) = channel();
    let looker = |index| Looker {
        index,
        passes: passes.to_vec(),
        messages: sender.clone(),
        waited: Arc::default(),
        looks: Arc::default(),
    };
    let lookers: Vec<Looker> = (0..names.len()).map(looker).collect();
    drop(sender);
    std::thread::scope(|scope| {
        let threads = lookers.into_iter().map(|looker| scope.spawn(move || look(&looker)));
        let threads: Vec<_> = threads.collect();
        let all = (0..names.len()).collect();
        let computed = Passes { passes, messages, lookers: all, waiting: Vec::new() }.run(names, outputs);
        let looked = threads.into_iter().map(|thread| match thread.join() {
            Ok(looked) => looked,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        let looked: Vec<Result<()>> = looked.collect();
        // Who was left waiting says no more than that it was interrupted.
        computed?;
        looked.into_iter().collect()
    })
}

impl Runner<'_> {
    /// Makes what is missing of a network's outputs and of the scores of detectors that read layers, in one forward pass over each set.
    /// What is there already, or cannot be shared, is left to the methods' own turns.
    ///
    /// # Errors
    /// Those of the passes and of the detectors; [`Error::Interrupted`] between batches when the user asks to stop.
    pub(super) fn look_together(&mut self, subject: &Subject<'_>, methods: &[&Method]) -> Result<()> {
        let [member] = &subject.members[..] else { return Ok(()) };
        let root = self.context.store.root().to_owned();
        let (mut places, mut detectors, mut names, mut of_all) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut others_learn = false;
        for method in methods {
            let (detector, place) = (method.detector.build(), Place::of(method, subject)?);
            // A detector may stand under several names.
            let listed = places.iter().any(|other: &Place| other.folder == place.folder);
            if listed || method.search.is_empty() && place.is_complete(&root, subject.sets)? {
                continue;
            }
            if detector.reads_batches() && method.search.is_empty() && !subject.ensemble {
                places.push(place);
                names.push(method.name.as_str());
                of_all.push(method.of_all);
                detectors.push(&method.detector);
            } else {
                others_learn |= detector.needs().contains(&Need::Train);
            }
        }
        if places.is_empty() {
            return Ok(());
        }
        let learns = detectors.iter().any(|detector| detector.build().needs().contains(&Need::Train));
        let train = if learns || others_learn { Some(self.train_set(subject)?) } else { None };
        let sets: Vec<&Arc<LoadedSet>> = train.iter().chain(subject.sets).collect();
        // Who looks at batches looks at what stands after the non-linearity.
        let pass = |set| ForwardPass { side: Side::After, ..self.forward_pass(member, set, subject) };
        let passes: Vec<_> = sets.iter().map(|set| Arc::new(pass(set))).collect();
        let mut outputs = Vec::new();
        // Where fewer images go at a time, or on a GPU, the outputs might differ from those of another pass in their last bits.
        let layers = detectors.iter().any(|detector| !detector.build().needs().contains(&Need::Stages));
        if passes[0].kept && self.context.device.is_cpu() && (!layers || passes[0].looks_at_whole_batches()?) {
            let first = usize::from(train.is_some() && !others_learn);
            outputs.extend((first..sets.len()).map(|set| (set, stored_outputs(member, sets[set], subject))));
            outputs.retain(|(_, stored)| !stored.path.exists());
        }
        if places.len() + usize::from(!outputs.is_empty()) < 2 {
            return Ok(());
        }
        let (head, memory, environment) = (subject.head(), subject.settings.fit_memory << 20, &self.environment);
        let (first, tested) = (usize::from(train.is_some()), subject.sets);
        let look = |looker: &Looker| -> Result<()> {
            let (place, detector) = (&places[looker.index], detectors[looker.index].build());
            let learned = if detector.needs().contains(&Need::Train) { Some(looker.bank(0)?) } else { None };
            let banks = (first..first + tested.len()).map(|set| looker.bank(set)).collect::<Result<Vec<_>>>()?;
            let scoring = Scoring { root: &root, place, environment, looked: &|| looker.waited() };
            let scratch = root.join(&place.folder).join("fit");
            let fit = Fit { train: learned.as_ref(), head: head.as_ref(), memory, scratch: Some(&scratch) };
            match scoring.score(tested, &banks, || detector.fit(&fit).map_err(|error| place.name(error))) {
                // Its own turn comes to the same end, and records why.
                Err(Error::Unfit { .. }) if of_all[looker.index] => Ok(()),
                scored => scored.map(|_| ()),
            }
        };
        together(&passes, &names, &outputs, &look)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::{
        data::{ImageSet, Normalisation, Split},
        nn::{self, Backbone, Model, Pass, Shape, params::Params},
        watch::interrupt::Interrupt,
    };

    /// Counts the images that a network sees, but for single ones, which show no more than its layers.
    struct Counting {
        network: Box<dyn Model>,
        images: AtomicUsize,
    }

    impl Model for Counting {
        fn show(&self, images: &Tensor, pass: &Pass) -> candle_core::Result<Shown> {
            if images.dim(0)? > 1 {
                self.images.fetch_add(images.dim(0)?, SeqCst);
            }
            self.network.show(images, pass)
        }

        fn folded(&self) -> candle_core::Result<Box<dyn Model>> {
            self.network.folded()
        }
    }

    /// Passes over two sets of 20 images, 8 at a time.
    fn passes(interrupt: &Interrupt) -> (Arc<Counting>, Vec<Arc<ForwardPass>>) {
        let shape = Shape { channels: 1, height: 28, width: 28, classes: 10 };
        let params = Params::new(0, &Device::Cpu);
        let network = nn::build(&Backbone::by_name("lenet").unwrap().into(), shape, params.builder()).unwrap();
        let network = Arc::new(Counting { network: network.folded().unwrap(), images: AtomicUsize::new(0) });
        let pass = |set: usize| {
            let images = ImageSet {
                name: format!("set {set}"),
                split: Split::Test,
                channels: 1,
                height: 28,
                width: 28,
                pixels: (0..20 * 784).map(|at| (at * (7 + set) % 251) as u8).collect(),
                labels: None,
                classes: 0,
                full_size: None,
                files: None,
                masks: None,
                note: None,
            };
            Arc::new(ForwardPass {
                network: network.clone(),
                kept: true,
                images: Arc::new(images),
                normalisation: Normalisation { mean: vec![0.5], std: vec![0.5] },
                batch: 8,
                memory: 1 << 20,
                side: Side::After,
                device: Device::Cpu,
                interrupt: interrupt.clone(),
            })
        };
        (network.clone(), (0..2).map(pass).collect())
    }

    /// The first neuron of the first layer on every image.
    fn firsts(activations: &dyn Activations) -> Result<Vec<f32>> {
        let mut firsts = Vec::new();
        activations.pass("reading", &mut |start, batch| {
            assert_eq!(start, firsts.len());
            let values = &batch.layers[0].values;
            let values = values.reshape((values.dim(0)?, ()))?.narrow(1, 0, 1)?.flatten_all()?;
            firsts.extend(values.to_vec1::<f32>()?);
            Ok(())
        })?;
        Ok(firsts)
    }

    #[test]
    fn all_who_look_share_a_pass_and_what_they_see_is_what_they_would_see_alone() {
        let place = tempfile::tempdir().unwrap();
        let (network, passes) = passes(&Interrupt::default());
        let alone: Vec<Vec<f32>> = passes.iter().map(|pass| firsts(&**pass).unwrap()).collect();
        let outputs = [0, 1].map(|set| passes[set].outputs().unwrap());
        network.images.store(0, SeqCst);
        let stored = [0, 1].map(|set| {
            let path = place.path().join(format!("{set}.safetensors"));
            (set, Stored { path, images: format!("images {set}"), network: "network".into() })
        });
        let look = |looker: &Looker| {
            // The first learns from the one set, and from a part of it by itself, and scores the other; the second scores at once.
            if looker.index == 0 {
                let train = looker.bank(0)?;
                assert_eq!(firsts(train.layers()?)?, alone[0]);
                assert_eq!(firsts(&*train.layers()?.subset(&[3, 5])?)?, [alone[0][3], alone[0][5]]);
            }
            assert_eq!(firsts(looker.bank(1)?.layers()?)?, alone[1]);
            Ok(())
        };
        together(&passes, &["a", "b"], &stored, &look).unwrap();
        assert_eq!(network.images.load(SeqCst), 20 + 2 + 20);
        for ((_, stored), expected) in stored.iter().zip(outputs) {
            let bank = stored.read(None).unwrap().unwrap();
            for (stored, expected) in [(bank.logits, expected.logits), (bank.features, expected.features)] {
                assert_eq!(stored.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());
            }
            // After another training they would be those of other weights.
            assert!(Stored { network: "other".into(), ..stored.clone() }.read(None).unwrap().is_none());
        }
    }

    /// The first reads stages alone while the second looks at layers; then the second reads stages by itself.
    #[test]
    fn stages_come_with_every_pass_and_layers_only_with_those_that_they_are_asked_of() {
        let (network, passes) = passes(&Interrupt::default());
        let seen = Mutex::new(Vec::new());
        let look = |looker: &Looker| {
            let bank = looker.bank(0)?;
            let shown = bank.layers()?;
            assert_eq!(shown.image_size(), Some([28, 28]));
            if looker.index == 1 {
                firsts(shown)?;
            }
            shown.stages("reading", &mut |start, batch| {
                let names: Vec<&str> = batch.stages.iter().map(|(name, _)| &name[..]).collect();
                assert_eq!(
                    (names, batch.stages[1].1.dims()[0]),
                    (vec!["conv1", "conv2"], if start == 16 { 4 } else { 8 })
                );
                seen.lock().unwrap().push((looker.index, start, batch.layers.is_empty()));
                Ok(())
            })
        };
        together(&passes, &["a", "b"], &[], &look).unwrap();
        assert_eq!(network.images.load(SeqCst), 20 + 20);
        let expected = [(0, 0, false), (0, 8, false), (0, 16, false), (1, 0, true), (1, 8, true), (1, 16, true)];
        assert_eq!(seen.into_inner().unwrap(), expected);
    }

    #[test]
    fn one_that_fails_does_not_stop_the_others_and_a_stop_ends_all() {
        let interrupt = Interrupt::default();
        let (_, passes) = passes(&interrupt);
        let finished = AtomicUsize::new(0);
        let look = |looker: &Looker| {
            if looker.index == 1 {
                return looker.bank(0)?.layers()?.pass("failing", &mut |start, _| match start {
                    0 => Ok(()),
                    _ => Err(Error::Failed(format!("at {start}"))),
                });
            }
            firsts(looker.bank(0)?.layers()?)?;
            finished.fetch_add(1, SeqCst);
            Ok(())
        };
        let nested = |looker: &Looker| {
            let bank = looker.bank(0)?;
            bank.layers()?.pass("outer", &mut |_, _| firsts(bank.layers()?).map(|_| ()))
        };
        let error = together(&passes, &["a"], &[], &nested).unwrap_err().to_string();
        assert_eq!(error, "a detector asks for a pass within a pass");
        let error = together(&passes, &["a", "b", "c"], &[], &look).unwrap_err();
        assert_eq!((error.to_string().as_str(), finished.load(SeqCst)), ("at 8", 2));

        let stop = |looker: &Looker| {
            looker.bank(0)?.layers()?.pass("stopped", &mut |_, _| {
                interrupt.set();
                Ok(())
            })
        };
        assert!(matches!(together(&passes, &["a", "b"], &[], &stop), Err(Error::Interrupted)));
    }
}
