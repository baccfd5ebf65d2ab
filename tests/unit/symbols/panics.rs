//! What a panic may be told with: `format_args!` of every kind, alive while it is read. One line
//! each: name, address of four words that lead to it as a `PanicInfo`'s do, its text in hexadecimal.
#![allow(dead_code)]
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{Arguments, Debug, Display};
use std::io::Read;
use std::marker::PhantomData;
use std::sync::atomic::AtomicU64;
use std::sync::Mutex;

#[derive(Debug)]
pub struct Thing { pub pid: u32, pub name: String, pub next: Option<Box<Thing>>, pub at: Addr }
#[derive(Debug)]
pub struct Addr(pub u64);
#[derive(Debug)]
pub struct Unit;
#[derive(Debug)]
pub struct Typed<T> { pub frame: u64, pub mark: PhantomData<T> }
#[derive(Debug)]
pub enum MapError { OutOfFrames, Mapped(Addr), Parent { level: u8, entry: u64 } }
#[derive(Debug)]
pub enum State { Ready = 3, Dead = 9 }
#[derive(Debug)]
pub struct Everything {
    pub flag: bool, pub letter: char, pub quote: char, pub reals: (f32, f64, f64, f64), pub small: f32,
    pub one: (u8,), pub unit: (), pub text: &'static str, pub list: Vec<Addr>, pub bytes: [u8; 3],
    pub queue: VecDeque<u16>, pub map: BTreeMap<u32, &'static str>, pub set: BTreeSet<u8>,
    pub none: Option<u8>, pub some: Option<Option<bool>>, pub result: Result<(), MapError>,
    pub count: AtomicU64, pub raw: *const u8, pub slice: &'static [i16], pub state: State,
    pub signed: i64, pub wide: u128, pub empty: Vec<u8>, pub range: std::ops::Range<u32>,
}
pub struct Told(u8);
impl Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "told {}", self.0) }
}

fn thing() -> Thing {
    let next = Thing { pid: 2, name: "in\"it\n".into(), next: None, at: Addr(0) };
    Thing { pid: 1, name: "idle".into(), next: Some(Box::new(next)), at: Addr(0xffff_8000_0000_1000) }
}

fn everything() -> Everything {
    Everything {
        flag: true, letter: 'ß', quote: '\'', reals: (1.5, 1.0, 1e300, -2.5e-7), small: 0.1,
        one: (7,), unit: (), text: "t\t\\", list: vec![Addr(1), Addr(2)], bytes: [1, 2, 255],
        queue: [4, 5].into(), map: [(1, "one"), (2, "two")].into(), set: [3, 1].into(), none: None,
        some: Some(Some(false)), result: Err(MapError::Parent { level: 3, entry: 0x83 }),
        count: AtomicU64::new(12), raw: 0x1234 as *const u8, slice: &[-1, 2], state: State::Dead,
        signed: -9, wide: 1 << 100, empty: vec![], range: 4..9,
    }
}

fn show(cases: &[(&str, Arguments)]) {
    let infos: Vec<[usize; 4]> =
        cases.iter().map(|case| [0x10, &case.1 as *const _ as usize, 0, 0]).collect();
    for (case, info) in cases.iter().zip(&infos) {
        let text: String = case.1.to_string().bytes().map(|b| format!("{b:02x}")).collect();
        println!("{}\t{:#x} {text}", case.0, info.as_ptr() as usize);
    }
    println!("ready\t");
    let _ = std::io::stdin().read(&mut [0u8; 1]);
}

fn main() {
    let n = std::env::args().count() as u64; // 1, and no constant
    let (thing, everything, typed) = (thing(), everything(), Typed::<u8> { frame: n, mark: PhantomData });
    let errors = [MapError::OutOfFrames, MapError::Mapped(Addr(n)), MapError::Parent { level: 2, entry: n }];
    let (error, debug): (&dyn Debug, &dyn Debug) = (&errors[2], &n);
    let parsed = "x".parse::<u32>().unwrap_err();
    let parse: &dyn Debug = &parsed;
    let display: &dyn Display = &n;
    let lock = Mutex::new(n as u32);
    let waited = std::time::Duration::from_millis(n);
    let told = Told(n as u8);
    let (flag, letter, real, single) = (n == 1, char::from(b'a' + n as u8), n as f64 / 3.0, n as f32 / 10.0);
    let (big, negative, text) = (0xdead_beef_u64 * n, -(n as i32), "idle".to_string());
    let (width, places) = (12usize, 2usize);
    show(&[
        ("struct", format_args!("lost {:?}", thing)),
        ("reference", format_args!("lost {:?} twice", &&thing)),
        ("pretty", format_args!("lost {:#?}", thing)),
        ("everything", format_args!("{:?} is all", everything)),
        ("everything pretty", format_args!("{:#?} is all", everything)),
        ("everything hex", format_args!("{:02x?} is all", everything)),
        ("unit", format_args!("a {:?} and {:?}", Unit, ())),
        ("typed", format_args!("a {:?}", typed)),
        ("variants", format_args!("{:?}, {:?}, {:?}", errors[0], errors[1], errors[2])),
        ("option", format_args!("{:?} or {:?}", Some(&errors[1]), None::<Addr>)),
        ("result", format_args!("{:?}", Err::<u8, _>(&errors[0]))),
        ("unwrap", format_args!("called `Result::unwrap()` on an `Err` value: {error:?}")),
        ("unwrap of std", format_args!("called `Result::unwrap()` on an `Err` value: {parse:?}")),
        ("dyn", format_args!("left: {debug:?}, {display}")),
        ("hex", format_args!("{:#x} {:#010x} {:08X} {:x}", big, n, big, negative)),
        ("pads", format_args!("[{:5}] [{:<5}] [{:^5}] [{:*>5}] [{:+}] [{:05}]", n, n, n, n, n, negative)),
        ("radix", format_args!("{:#b} {:o} {:#06b}", big, big, n)),
        ("pointer", format_args!("{:p} {:#p}", 0x1000 as *const u8, 0x2000 as *const u8)),
        ("plain", format_args!("{} {} {:?} {:>7}|{:7}|", flag, letter, letter, flag, letter)),
        ("real", format_args!("{} {:?} {:.3} {:8.2} {:08.2} {} {:?}", real, real, real, real, -real, single, single)),
        ("text", format_args!("{} {:?} [{:8}] [{:>8}] [{:.2}]", text, text, text, text, text)),
        ("by argument", format_args!("[{:width$}] [{:.places$}] [{:>1$}]", n, width, real)),
        ("numbered", format_args!("{1:?} {0} {1:#x?}", n, Addr(big))),
        ("nested", format_args!("{}: {}", n, format_args!("in {:?}", errors[1]))),
        ("list", format_args!("{:?} {:#?}", &errors[..2], [n, 2])),
        ("unknown lock", format_args!("{:?}", lock)),
        ("unknown time", format_args!("{:?}", waited)),
        ("unknown told", format_args!("{}", told)),
    ]);
}
