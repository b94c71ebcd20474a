//! Pickles as data: the instructions that PyTorch's files and CIFAR's use are followed, but nothing is ever imported or called.
//!
//! A call in the pickle becomes a [`Value::Call`] that says what would have been called; whoever reads the result decides
//! which calls have a meaning (rebuilding a tensor has one) and ignores the others. Values live in a list and refer to
//! each other by number, so that a value that is used twice is stored once and memory stays in proportion to the file.
//!
//! The instructions: CPython's `Lib/pickletools.py`, protocols 2 to 4.

use std::ops::Range;

/// Where a value is in a [`Pickle`].
pub(crate) type Id = usize;

/// A Python value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// `None`, and what has no meaning for weights: long integers beyond 64 bits.
    Nothing,
    /// Where bytes, or text of Python 2 that is no UTF-8, stand in the pickle.
    Bytes(Range<usize>),
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A class or function by (module, name). Never imported.
    Global(String, String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// The result of calling the first with the arguments in the second. Never called.
    Call(Id, Id),
    /// An object outside the pickle, by its identity; for PyTorch a tensor's storage.
    Persistent(Id),
}

/// A pickle of more instructions describes no weights: each makes at most one value, so this bounds memory too (a few hundred
/// megabytes). A tensor takes about 45, so a network may have some 90,000.
const MOST_INSTRUCTIONS: usize = 1 << 22;

/// Bytes of a name in Python 2's text. Ours: a file system's longest.
const LONGEST_NAME: usize = 4096;

/// All values of a pickle.
#[derive(Debug)]
pub(crate) struct Pickle {
    values: Vec<Value>,
    /// What was given to objects after they were made: the object, its state.
    built: Vec<(Id, Id)>,
    root: Id,
}

impl Pickle {
    /// Follows the instructions of `bytes` up to STOP; an error says what is wrong and at which byte.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        Self::parse_first(bytes).map(|(pickle, _)| pickle)
    }

    /// [`Pickle::parse`], and how many of `bytes` it took: another pickle may follow.
    pub(crate) fn parse_first(bytes: &[u8]) -> Result<(Self, usize), String> {
        let mut machine = Machine { bytes, at: 0, ..Machine::default() };
        for _ in 0..MOST_INSTRUCTIONS {
            let start = machine.at;
            match machine.step() {
                Ok(None) => {}
                Ok(Some(root)) => {
                    return Ok((Self { values: machine.values, built: machine.built, root }, machine.at));
                }
                Err(reason) => return Err(format!("{reason} at byte {start} of its pickle")),
            }
        }
        Err(format!("a pickle of more than {MOST_INSTRUCTIONS} instructions"))
    }

    /// All values, in the order in which they were made.
    pub(crate) fn values(&self) -> &[Value] {
        &self.values
    }

    /// The pickled object.
    pub(crate) fn root(&self) -> Id {
        self.root
    }

    /// A value; ids come from this pickle only.
    pub(crate) fn get(&self, id: Id) -> &Value {
        self.values.get(id).unwrap_or(&Value::Nothing)
    }

    /// The text at `id`, if it is one.
    pub(crate) fn text(&self, id: Id) -> Option<&str> {
        if let Value::Text(text) = self.get(id) { Some(text) } else { None }
    }

    /// The bytes or the text at `id`, if it is such, of the pickle that was parsed.
    pub(crate) fn bytes<'a>(&'a self, id: Id, pickle: &'a [u8]) -> Option<&'a [u8]> {
        match self.get(id) {
            Value::Bytes(place) => pickle.get(place.clone()),
            Value::Text(text) => Some(text.as_bytes()),
            _ => None,
        }
    }

    /// The state that the object at `id` was given, if it was.
    pub(crate) fn built(&self, id: Id) -> Option<Id> {
        self.built.iter().find(|(object, _)| *object == id).map(|(_, state)| *state)
    }

    /// The items of the tuple or list at `id`, if it is one.
    pub(crate) fn items(&self, id: Id) -> Option<&[Id]> {
        if let Value::Tuple(items) | Value::List(items) = self.get(id) { Some(items) } else { None }
    }

    /// The number at `id`, if it is a whole one from 0.
    pub(crate) fn size(&self, id: Id) -> Option<usize> {
        if let Value::Int(number) = self.get(id) { usize::try_from(*number).ok() } else { None }
    }

    /// (module, name) of the class or function at `id`, if it is one.
    pub(crate) fn global(&self, id: Id) -> Option<(&str, &str)> {
        if let Value::Global(module, name) = self.get(id) { Some((module, name)) } else { None }
    }
}

/// The stack machine that a pickle is a program for.
#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value>,
    built: Vec<(Id, Id)>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: Vec<Option<Id>>,
}

impl Machine<'_> {
    /// One instruction; the root after the last.
    fn step(&mut self) -> Result<Option<Id>, String> {
        match self.byte()? {
            // PROTO, FRAME: nothing in them that matters here.
            0x80 => drop(self.take(1)?),
            0x95 => drop(self.take(8)?),
            b'.' => return self.pop().map(Some),

            b'N' => self.push(Value::Nothing),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'K' => {
                let number = self.number(1)?;
                self.push(Value::Int(number));
            }
            b'M' => {
                let number = self.number(2)?;
                self.push(Value::Int(number));
            }
            b'J' => {
                let number = self.number(4)?;
                // Four bytes with a sign.
                self.push(Value::Int(i64::from(number as u32 as i32)));
            }
            0x8a => self.long(1)?,
            0x8b => self.long(4)?,
            b'G' => {
                let bytes = self.take(8)?.try_into().map_err(|_| "a broken number")?;
                self.push(Value::Float(f64::from_be_bytes(bytes)));
            }

            // BINUNICODE, SHORT_BINUNICODE, BINUNICODE8.
            b'X' => self.text(4)?,
            0x8c => self.text(1)?,
            0x8d => self.text(8)?,
            // BINSTRING and SHORT_BINSTRING, Python 2's: names, and the bytes of arrays.
            b'T' => self.text_or_bytes(4)?,
            b'U' => self.text_or_bytes(1)?,
            // SHORT_BINBYTES, BINBYTES, BINBYTES8.
            b'C' => self.raw(1)?,
            b'B' => self.raw(4)?,
            0x8e => self.raw(8)?,

            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(module, name));
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.push(Value::Global(module, name));
            }

            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_marked()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.pop_marked()?;
                self.push(Value::Tuple(items));
            }
            b']' => self.push(Value::List(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.extend_list(&[item])?;
            }
            b'e' => {
                let items = self.pop_marked()?;
                self.extend_list(&items)?;
            }
            b'}' => self.push(Value::Dict(Vec::new())),
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend_dict(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_marked()?;
                self.extend_dict(&items)?;
            }

            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET.
            b'q' => {
                let slot = self.length(1)?;
                self.remember(slot)?;
            }
            b'r' => {
                let slot = self.length(4)?;
                self.remember(slot)?;
            }
            0x94 => self.remember(self.memo.len())?,
            b'h' => {
                let slot = self.length(1)?;
                self.recall(slot)?;
            }
            b'j' => {
                let slot = self.length(4)?;
                self.recall(slot)?;
            }

            b'Q' => {
                let identity = self.pop()?;
                self.push(Value::Persistent(identity));
            }
            // REDUCE, NEWOBJ, NEWOBJ_EX (whose keyword arguments are dropped).
            b'R' | 0x81 => self.call()?,
            0x92 => {
                self.pop()?;
                self.call()?;
            }
            // BUILD: attributes of the object below, such as an OrderedDict's `_metadata` or an array's bytes.
            b'b' => {
                let state = self.pop()?;
                self.built.push((self.top()?, state));
            }
            other => return Err(format!("an instruction 0x{other:02x} that weights do not need")),
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Result<&[u8], String> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let bytes = end.and_then(|end| self.bytes.get(self.at..end)).ok_or("the end of the data")?;
        self.at += count;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.take(1)?.first().copied().ok_or_else(|| "the end of the data".into())
    }

    /// A number of up to eight bytes, little-endian, as its bits.
    fn number(&mut self, width: usize) -> Result<i64, String> {
        let bytes = self.take(width)?;
        Ok(bytes.iter().rev().fold(0, |number, byte| (number << 8) | i64::from(*byte)))
    }

    fn length(&mut self, width: usize) -> Result<usize, String> {
        usize::try_from(self.number(width)?).map_err(|_| "an impossible length".into())
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| *byte == b'\n').ok_or("an unfinished name")?;
        let line = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.at += 1;
        Ok(line)
    }

    fn text(&mut self, width: usize) -> Result<(), String> {
        let length = self.length(width)?;
        let text = String::from_utf8(self.take(length)?.to_vec()).map_err(|_| "text that is not UTF-8")?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn raw(&mut self, width: usize) -> Result<(), String> {
        let length = self.length(width)?;
        self.take(length)?;
        self.push(Value::Bytes(self.at - length..self.at));
        Ok(())
    }

    fn text_or_bytes(&mut self, width: usize) -> Result<(), String> {
        let length = self.length(width)?;
        let value = match std::str::from_utf8(self.take(length)?) {
            // Longer ones are no names, and need no second copy.
            Ok(text) if length <= LONGEST_NAME => Value::Text(text.to_owned()),
            _ => Value::Bytes(self.at - length..self.at),
        };
        self.push(value);
        Ok(())
    }

    fn long(&mut self, width: usize) -> Result<(), String> {
        let length = self.length(width)?;
        let value = if length == 0 {
            Value::Int(0)
        } else if length <= 8 {
            let unused = 64 - 8 * length;
            Value::Int((self.number(length)? << unused) >> unused)
        } else {
            self.take(length)?;
            Value::Nothing
        };
        self.push(value);
        Ok(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    /// How much of the stack lies below the last mark, out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id, String> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&self) -> Result<Id, String> {
        self.stack.get(self.floor()..).and_then(<[Id]>::last).copied().ok_or_else(|| "an empty stack".into())
    }

    fn pop_text(&mut self) -> Result<String, String> {
        let id = self.pop()?;
        match self.values.get(id) {
            Some(Value::Text(text)) => Ok(text.clone()),
            _ => Err("a name that is not text".into()),
        }
    }

    fn pop_marked(&mut self) -> Result<Vec<Id>, String> {
        let mark = self.marks.pop().ok_or("a missing mark")?;
        // Nothing pops below a mark, so the mark is within the stack.
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn tuple(&mut self, count: usize) -> Result<(), String> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn extend_list(&mut self, items: &[Id]) -> Result<(), String> {
        let list = self.top()?;
        match self.values.get_mut(list) {
            Some(Value::List(list)) => list.extend(items),
            // Lists of classes of their own.
            Some(Value::Call(..)) => {}
            _ => return Err("an item for something that is no list".into()),
        }
        Ok(())
    }

    fn extend_dict(&mut self, items: &[Id]) -> Result<(), String> {
        let dict = self.top()?;
        match self.values.get_mut(dict) {
            Some(Value::Dict(dict)) => {
                for pair in items.chunks(2) {
                    let [key, value] = pair else { return Err("a key without a value".into()) };
                    dict.push((*key, *value));
                }
            }
            // Dictionaries of classes of their own.
            Some(Value::Call(..)) => {}
            _ => return Err("an item for something that is no dictionary".into()),
        }
        Ok(())
    }

    fn remember(&mut self, slot: usize) -> Result<(), String> {
        let top = self.top()?;
        // Slots are numbered one after the other; a far one could only be there to make the memo large.
        if slot > self.bytes.len().min(MOST_INSTRUCTIONS) {
            return Err(format!("a memo slot {slot}"));
        }
        if slot >= self.memo.len() {
            self.memo.resize(slot + 1, None);
        }
        if let Some(place) = self.memo.get_mut(slot) {
            *place = Some(top);
        }
        Ok(())
    }

    fn recall(&mut self, slot: usize) -> Result<(), String> {
        let id = self.memo.get(slot).copied().flatten().ok_or("an empty memo slot")?;
        self.stack.push(id);
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let dict = matches!(self.values.get(callable), Some(Value::Global(module, name))
            if module == "collections" && matches!(name.as_str(), "OrderedDict" | "defaultdict"));
        // `OrderedDict()`; its items follow as SETITEMS.
        let value = if dict { Value::Dict(Vec::new()) } else { Value::Call(callable, arguments) };
        self.push(value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> Result<Pickle, String> {
        Pickle::parse(bytes)
    }

    #[test]
    fn numbers_have_their_signs() {
        for (bytes, value) in [
            (&b"K\xff."[..], Value::Int(255)),
            (b"M\xff\xff.", Value::Int(65535)),
            (b"J\xfd\xff\xff\xff.", Value::Int(-3)),
            (b"\x8a\x00.", Value::Int(0)),
            (b"\x8a\x01\xff.", Value::Int(-1)),
            (b"\x8a\x06\x00\x00\x00\x00\x00\x01.", Value::Int(1 << 40)),
            (b"G?\xe0\x00\x00\x00\x00\x00\x00.", Value::Float(0.5)),
        ] {
            let pickle = parse(bytes).unwrap();
            assert_eq!(pickle.get(pickle.root()), &value);
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_place() {
        for (bytes, reason) in [
            (&b""[..], "the end of the data at byte 0"),
            (b"X\xff\xff\xff\xffab.", "the end of the data at byte 0"),
            (b"N\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "an impossible length at byte 1"),
            (b"R.", "an empty stack at byte 0"),
            (b"t.", "a missing mark at byte 0"),
            (b"N(0.", "an empty stack at byte 2"),
            (b"}(Nu.", "a key without a value at byte 3"),
            (b"NNa.", "an item for something that is no list at byte 2"),
            (b"h\x07.", "an empty memo slot at byte 0"),
            (b"Nr\xff\xff\xff\x7f.", "a memo slot 2147483647 at byte 1"),
            (b"cos\nsystem", "an unfinished name at byte 0"),
            (b"I1\n.", "an instruction 0x49 that weights do not need at byte 0"),
        ] {
            let error = parse(bytes).unwrap_err();
            assert!(error.starts_with(reason), "{error:?} for {bytes:?}");
        }
    }

    #[test]
    fn a_call_stays_a_description_of_itself() {
        let pickle = parse(b"cos\nsystem\nX\x04\x00\x00\x00echo\x85R.").unwrap();
        let Value::Call(callable, arguments) = pickle.get(pickle.root()) else { panic!("no call") };
        assert_eq!(pickle.global(*callable), Some(("os", "system")));
        assert_eq!(pickle.items(*arguments).map(<[Id]>::len), Some(1));
    }

    #[test]
    fn a_program_without_end_is_stopped() {
        // One of each kind of growth: values, marks, the stack; the memo grows with the values.
        for instruction in [b'N', b'(', b'2'] {
            let mut bytes = b"N".to_vec();
            bytes.resize(MOST_INSTRUCTIONS + 10, instruction);
            bytes.push(b'.');
            assert_eq!(parse(&bytes).unwrap_err(), "a pickle of more than 4194304 instructions");
        }
    }

    #[test]
    fn a_pickle_may_be_followed_by_another() {
        let (first, length) = Pickle::parse_first(b"K\x01.K\x02.").unwrap();
        assert_eq!((first.get(first.root()), length), (&Value::Int(1), 3));
    }

    #[test]
    fn doubling_a_value_again_and_again_costs_nothing() {
        // A tuple of two of the last tuple, 200 times: 2^200 values if they were copied.
        let mut bytes = b"N".to_vec();
        for _ in 0..200 {
            bytes.extend(b"2\x86");
        }
        bytes.push(b'.');
        assert!(parse(&bytes).is_ok());
    }
}
