//! Every Rust shape that the agent reads, in statics, with the truth on stdout: one line
//! `name<TAB>value` each, in a form that the test parses. Waits on stdin so that it can be read.
#![allow(dead_code, static_mut_refs)]
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};
use std::io::Read;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::atomic::*;
use std::sync::{Arc, Mutex, OnceLock};

#[derive(Clone, Debug, PartialEq)]
pub struct Foo {
    pub pid: u32,
    pub name: String,
    pub stack_top: u64,
    pub next: Option<Box<Foo>>,
    pub payload: Payload,
    pub state: State,
    pub flag: bool,
    pub letter: char,
    pub pair: (u8, i64),
    pub unit: (),
}
#[derive(Clone, Debug, PartialEq)]
pub enum Payload { Empty, Text(String), Number { value: i32, scale: u8 }, Other }
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(u8)]
pub enum State { Creating = 1, Ready = 5, Dead = 200 }
#[derive(Clone, Copy, Debug)]
pub enum Signed { Low = -7, Zero = 0, High = 9 }
#[derive(Clone, Debug)]
#[repr(u128)]
pub enum Wide { A = 1, B = 0x1_0000_0000_0000_0000_0000 }
#[derive(Clone, Debug)]
#[repr(i16)]
pub enum SignedTag { Minus(u8) = -2, Plus(u32) = 3 }
#[derive(Clone, Debug)]
pub enum Single { Only(u16) }
pub enum Never {}
#[derive(Clone, Debug)]
pub enum Nested { Inner(Option<bool>), A, B, C }
#[derive(Debug)]
pub enum Big { X(u128), Y }

pub trait Speaks { fn speak(&self) -> String; }
impl Speaks for Foo { fn speak(&self) -> String { self.name.clone() } }
#[repr(align(64))]
pub struct Aligned { pub code: u16 }
impl Speaks for Aligned { fn speak(&self) -> String { format!("aligned {}", self.code) } }
impl Speaks for u8 { fn speak(&self) -> String { format!("byte {self}") } }

pub struct Everything {
    pub hashed: HashMap<u32, String>,
    pub hashed_empty: HashMap<String, u8>,
    pub hashed_set: HashSet<String>,
    pub linked: LinkedList<u32>,
    pub linked_empty: LinkedList<u32>,
    pub dyn_box: Box<dyn Speaks>,
    pub dyn_arc: Arc<dyn Speaks>,
    pub dyn_ref: &'static dyn Speaks,
    pub dyn_option: Option<Box<dyn Speaks>>,
    pub foo: Foo,
    pub opt_u64: [Option<u64>; 2],
    pub opt_box: [Option<Box<u32>>; 2],
    pub opt_bool: [Option<bool>; 3],
    pub opt_opt_bool: [Option<Option<bool>>; 4],
    pub opt_nonzero: [Option<NonZeroU32>; 2],
    pub opt_char: [Option<char>; 2],
    pub opt_state: [Option<State>; 4],
    pub opt_string: [Option<String>; 2],
    pub opt_ref: [Option<&'static str>; 2],
    pub opt_unit: [Option<()>; 2],
    pub payloads: [Payload; 4],
    pub signed: [Signed; 3],
    pub wide: [Wide; 2],
    pub signed_tags: [SignedTag; 2],
    pub single: Single,
    pub result: [Result<u32, String>; 2],
    pub uninhabited: Result<u8, Never>,
    pub nested: [Nested; 6],
    pub big: [Big; 2],
    pub vec: Vec<u16>,
    pub vec_empty: Vec<String>,
    pub vec_zst: Vec<()>,
    pub deque: VecDeque<u32>,
    pub deque_flat: VecDeque<String>,
    pub map: BTreeMap<u64, Box<Foo>>,
    pub map_small: BTreeMap<u8, u8>,
    pub map_empty: BTreeMap<u8, String>,
    pub map_big: BTreeMap<u32, String>,
    pub set: BTreeSet<u32>,
    pub heap: BinaryHeap<u8>,
    pub boxed_slice: Box<[u8]>,
    pub boxed_str: Box<str>,
    pub slice: &'static [i16],
    pub text: &'static str,
    pub arc: Arc<u64>,
    pub rc: Rc<String>,
    pub arc_str: Arc<str>,
    pub array2: [[u8; 2]; 3],
    pub floats: (f32, f64),
    pub ints: (i8, i16, i32, i64, i128, u128, isize, usize),
    pub atomics: (AtomicBool, AtomicU8, AtomicI32, AtomicU64, AtomicUsize),
    pub raw: *const u8,
    pub func: fn(u32) -> u32,
}

pub static MUTEX: Mutex<Option<Everything>> = Mutex::new(None);
pub static HELD: Mutex<u32> = Mutex::new(77);
pub static ONCE: OnceLock<u32> = OnceLock::new();
pub static COUNTER: AtomicU64 = AtomicU64::new(0);
pub static mut SPLIT: Option<u64> = None;
pub static TABLE: [(&str, u32); 3] = [("one", 1), ("two", 2), ("three", 3)];
pub mod inner { pub static COUNTER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(5); }

unsafe impl Send for Everything {}

fn double(x: u32) -> u32 { x * 2 }

pub fn make(pid: u32, depth: u32) -> Foo {
    Foo {
        pid, name: format!("process-{pid}"), stack_top: 0xffff_c900_0000_0000 + pid as u64,
        next: if depth > 0 { Some(Box::new(make(pid + 100, depth - 1))) } else { None },
        payload: match pid % 4 { 0 => Payload::Empty, 1 => Payload::Text("t".repeat(pid as usize)),
            2 => Payload::Number { value: -(pid as i32), scale: 3 }, _ => Payload::Other },
        state: [State::Creating, State::Ready, State::Dead][pid as usize % 3],
        flag: pid % 2 == 1, letter: 'ß', pair: (pid as u8, -1), unit: (),
    }
}

fn everything() -> Everything {
    let mut deque = VecDeque::with_capacity(8);
    for i in 0..8 { deque.push_back(i) }
    for _ in 0..5 { deque.pop_front(); }
    for i in 100..104 { deque.push_back(i) }
    Everything {
        hashed: (0..1000).map(|i| (i * 3, format!("h{i}"))).filter(|p| p.0 % 7 != 0).collect(),
        hashed_empty: HashMap::new(), hashed_set: ["x".into(), "y".into()].into(),
        linked: [7, 8, 9].into(), linked_empty: LinkedList::new(),
        dyn_box: Box::new(make(4, 0)), dyn_arc: Arc::new(Aligned { code: 99 }), dyn_ref: &5u8,
        dyn_option: Some(Box::new(Aligned { code: 3 })),
        foo: make(1, 2),
        opt_u64: [None, Some(7)], opt_box: [None, Some(Box::new(9))],
        opt_bool: [None, Some(false), Some(true)],
        opt_opt_bool: [None, Some(None), Some(Some(false)), Some(Some(true))],
        opt_nonzero: [None, NonZeroU32::new(4)], opt_char: [None, Some('x')],
        opt_state: [None, Some(State::Creating), Some(State::Ready), Some(State::Dead)],
        opt_string: [None, Some("some".into())], opt_ref: [None, Some("ref")],
        opt_unit: [None, Some(())],
        payloads: [Payload::Empty, Payload::Text("hello".into()),
            Payload::Number { value: -5, scale: 2 }, Payload::Other],
        signed: [Signed::Low, Signed::Zero, Signed::High], wide: [Wide::A, Wide::B],
        signed_tags: [SignedTag::Minus(8), SignedTag::Plus(1 << 20)], single: Single::Only(513),
        result: [Ok(1), Err("bad".into())], uninhabited: Ok(3),
        nested: [Nested::Inner(None), Nested::Inner(Some(false)), Nested::Inner(Some(true)),
            Nested::A, Nested::B, Nested::C],
        big: [Big::X(1 << 100), Big::Y],
        vec: vec![1, 2, 65535], vec_empty: vec![], vec_zst: vec![(); 3], deque,
        deque_flat: ["a".to_string(), "b".to_string()].into(),
        map: (1..=40).map(|i| (i * 3, Box::new(make(i as u32, 0)))).collect(),
        map_small: [(1, 2), (3, 4)].into(), map_empty: BTreeMap::new(),
        map_big: (0..500).map(|i| (i * 7 % 1009, format!("v{i}"))).collect(),
        set: [5, 3, 9].into(), heap: [4, 8, 2].into(),
        boxed_slice: vec![1, 2, 3].into(), boxed_str: "boxed".into(), slice: &[-1, 0, 1],
        text: "text with ünïcode", arc: Arc::new(42), rc: Rc::new("counted".into()),
        arc_str: "shared".into(), array2: [[1, 2], [3, 4], [5, 6]], floats: (1.5, -2.25),
        ints: (-8, -16, -32, -64, -(1 << 100), 1 << 127, -1, usize::MAX),
        atomics: (AtomicBool::new(true), AtomicU8::new(8), AtomicI32::new(-32),
            AtomicU64::new(64), AtomicUsize::new(65)),
        raw: std::ptr::null(), func: double,
    }
}

fn main() {
    let mut guard = MUTEX.lock().unwrap();
    *guard = Some(everything());
    ONCE.set(3).unwrap();
    COUNTER.store(12345, Ordering::SeqCst);
    unsafe { SPLIT = Some(std::env::args().count() as u64 + 0x100) };
    let held = HELD.lock().unwrap();
    let e = guard.as_ref().unwrap();
    println!("map_len\t{}", e.map.len());
    println!("map_keys\t{:?}", e.map.keys().collect::<Vec<_>>());
    println!("map_names\t{:?}", e.map.values().map(|f| f.name.clone()).collect::<Vec<_>>());
    println!("map_big\t{:?}", e.map_big.iter().collect::<Vec<_>>());
    let mut hashed: Vec<_> = e.hashed.iter().collect();
    hashed.sort();
    println!("hashed\t{hashed:?}");
    println!("spoken\t{} {} {}", e.dyn_box.speak(), e.dyn_arc.speak(), e.dyn_ref.speak());
    println!("deque\t{:?}", e.deque);
    println!("foo\t{:?}", e.foo);
    println!("heap\t{:?}", e.heap.as_slice());
    println!("func\t{:#x}", e.func as usize);
    println!("everything\t{:#x}", e as *const Everything as usize);
    println!("split\t{:?} {}", unsafe { &SPLIT }, inner::COUNTER.load(Ordering::SeqCst));
    println!("ready\t{}", TABLE.len() as u32 + *held);
    let _ = std::io::stdin().read(&mut [0u8; 1]);
}
