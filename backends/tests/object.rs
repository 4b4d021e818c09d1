//! Budgets: what the BPF object may be, what its program may cost the verifier, what the tables may take. The numbers found
//! are printed; each limit leaves room for what is still to come, and a step over it has to be a decision.

use std::collections::{BTreeMap, BTreeSet};

use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionKind, SymbolKind};
use tandem_backends::capture::Wish;
use tandem_backends::config::parse;
use tandem_backends::memory::{LookedUp, Sizes};
use tandem_backends::replay::{Backend, Instance};
use tandem_backends::xdp::{Balancer, OBJECT, REFERENCES, Role, fill};
use tandem_engine::memory::flows::{BYTES_PER_FLOW, WAYS};
use tandem_engine::memory::{Constant, FlowSet, Line, Real, RingLine, Root, Trace, VipSlot, features};

/// Helpers that the programs may call, by the numbers of `enum bpf_func_id` (include/uapi/linux/bpf.h). Array lookups,
/// jiffies and the CPU's number are inlined by the verifier; each of the others costs 8 to 35 ns.
const HELPERS: [(u32, &str); 14] = [
    (1, "map_lookup_elem"),
    (5, "ktime_get_ns"),
    (7, "get_prandom_u32"),
    (8, "get_smp_processor_id"),
    (12, "tail_call"),
    (18, "skb_vlan_push"),
    (23, "redirect"),
    (39, "skb_pull_data"),
    (44, "xdp_adjust_head"),
    (50, "skb_adjust_room"),
    (51, "redirect_map"),
    (65, "xdp_adjust_tail"),
    (118, "jiffies64"),
    (130, "ringbuf_output"),
];

/// Bytes of stack, of the 512 that a program and the functions that it calls have together (MAX_BPF_STACK).
const STACK: i64 = 512;
/// What a function takes at least, and in steps of: 16 where the kernel knows that it compiles, 32 before Linux 6.9
/// (kernel/bpf/verifier.c, round_up_stack_depth).
const STACK_STEP: i64 = 32;
/// Functions that are not inlined: each is off the way of usual frames, or asked for by the configuration.
const FUNCTIONS: usize = 34;
/// Instructions of the program in the kernel (of a million).
const TRANSLATED: u32 = 8000;
/// Instructions that the verifier may follow (of a million, BPF_COMPLEXITY_LIMIT_INSNS).
const VERIFIED: u32 = 150_000;
/// The same where usual frames have a way of their own beside the one for all: compiled twice, for IPv4 and IPv6.
const TRANSLATED_USUAL: u32 = 12_000;
const VERIFIED_USUAL: u32 = 250_000;
const TRANSLATED_BOTH: u32 = 24_000;
/// The same for the program with everything that can be configured.
const TRANSLATED_FULL: u32 = 18_000;
const VERIFIED_FULL: u32 = 700_000;
/// The same while somebody captures: what marks frames and tells of them comes on top.
const TRANSLATED_CAPTURE: u32 = 18_500;

/// One instruction of 8 bytes (Documentation/bpf/standardization/instruction-set.rst).
#[derive(Clone, Copy, Debug)]
struct Instruction {
    opcode: u8,
    destination: u8,
    source: u8,
    offset: i16,
    immediate: i32,
}

impl Instruction {
    const CALL: u8 = 0x85;
    /// BPF_LD | BPF_DW | BPF_IMM: takes two places.
    const WIDE: u8 = 0x18;
    /// The frame pointer.
    const R10: u8 = 10;

    /// Of another function of the object, not of a helper.
    fn is_local_call(&self) -> bool {
        self.opcode == Self::CALL && self.source == 1
    }

    fn read(bytes: &[u8]) -> Self {
        Self {
            opcode: bytes[0],
            destination: bytes[1] & 0xf,
            source: bytes[1] >> 4,
            offset: i16::from_le_bytes([bytes[2], bytes[3]]),
            immediate: i32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        }
    }
}

/// How deep below the frame pointer a program reads, writes, or lets a copy of the frame pointer point.
///
/// In the order of the code: a register is a copy from the move that makes it one to the next write that is not an addition.
fn stack_depth(instructions: &[Instruction]) -> i64 {
    const MOVE: u8 = 0xbf;
    const ADD_IMMEDIATE: u8 = 0x07;
    let mut copies = [false; 16];
    let mut deepest = 0;
    for i in instructions {
        let (class, copy) = (i.opcode & 7, &mut copies[usize::from(i.destination)]);
        let (load, store, arithmetic) = (class == 1, class == 2 || class == 3, class == 4 || class == 7);
        let depth = if load && i.source == Instruction::R10 || store && i.destination == Instruction::R10 {
            -i64::from(i.offset)
        } else if i.opcode == ADD_IMMEDIATE && *copy {
            -i64::from(i.immediate)
        } else {
            0
        };
        deepest = deepest.max(depth);
        if i.opcode == MOVE && i.source == Instruction::R10 {
            *copy = true;
        } else if (arithmetic && i.opcode != ADD_IMMEDIATE) || load || class == 0 {
            *copy = false;
        }
    }
    deepest
}

/// A function of the object: its instructions, and whom it calls.
struct Function {
    instructions: Vec<Instruction>,
    calls: Vec<String>,
}

/// Every function of an object, programs and what they call, by name.
fn functions(object: &object::File<'_>) -> BTreeMap<String, Function> {
    let mut functions = BTreeMap::new();
    for section in object.sections().filter(|section| section.kind() == SectionKind::Text) {
        let code = section.data().unwrap();
        let symbols: Vec<_> = object
            .symbols()
            .filter(|s| s.kind() == SymbolKind::Text && s.section_index() == Some(section.index()) && s.size() > 0)
            .collect();
        let named = |address: u64| symbols.iter().find(|s| s.address() == address).and_then(|s| s.name().ok());
        let relocated: BTreeMap<u64, _> = section.relocations().collect();
        for symbol in &symbols {
            let range = symbol.address()..symbol.address() + symbol.size();
            let bytes = &code[range.start as usize..range.end as usize];
            let instructions: Vec<_> = bytes.chunks_exact(8).map(Instruction::read).collect();
            let mut calls = Vec::new();
            for (at, instruction) in range.step_by(8).zip(&instructions).filter(|(_, i)| i.is_local_call()) {
                // A call within the section counts instructions from the next one; another names a symbol, or its section.
                let near = (at as i64 + 8 + i64::from(instruction.immediate) * 8) as u64;
                let target = match relocated.get(&at).map(object::Relocation::target) {
                    Some(RelocationTarget::Symbol(index)) => object.symbol_by_index(index).ok(),
                    _ => None,
                };
                let callee = match target {
                    Some(symbol) if symbol.kind() == SymbolKind::Section => {
                        // the instruction counts from the section's start, less one
                        let within = (i64::from(instruction.immediate) + 1) * 8;
                        let of = |s: &object::Symbol<'_, '_>| s.section_index() == symbol.section_index() && s.size() > 0;
                        let callee = object.symbols().find(|s| of(s) && s.address() as i64 == within);
                        callee.and_then(|s| s.name().ok()).unwrap_or_else(|| panic!("{instruction:?} calls nobody"))
                    }
                    Some(symbol) => symbol.name().unwrap(),
                    None => named(near).unwrap_or_else(|| panic!("{}: {instruction:?} calls nobody", symbol.name().unwrap())),
                };
                calls.push(callee.to_owned());
            }
            functions.insert(symbol.name().unwrap().to_owned(), Function { instructions, calls });
        }
    }
    functions
}

/// The programs: the functions of the sections `xdp` and, if there is one, `classifier`.
fn programs<'d>(object: &'d object::File<'_>) -> BTreeSet<&'d str> {
    let xdp = object.section_by_name("xdp").expect("a section of XDP programs").index();
    let tc = object.section_by_name("classifier").map(|section| section.index());
    let is_program = |section: Option<object::SectionIndex>| section == Some(xdp) || section.is_some() && section == tc;
    let symbols = object.symbols().filter(|s| s.kind() == SymbolKind::Text && is_program(s.section_index()));
    symbols.filter_map(|symbol| symbol.name().ok()).filter(|name| !name.is_empty()).collect()
}

fn each_object(check: impl Fn(&str, &object::File<'_>)) {
    for (name, bytes) in [("tandem-bpf", OBJECT), ("tandem-bpf-bench", REFERENCES)] {
        check(name, &object::File::parse(bytes).expect("an ELF object"));
    }
}

/// A panic that the compiler could not rule out calls a function that nobody defines.
#[test]
fn nothing_is_undefined() {
    each_object(|name, object| {
        let undefined: Vec<_> =
            object.symbols().filter(|s| s.is_undefined()).filter_map(|s| s.name().ok()).filter(|n| !n.is_empty()).collect();
        assert!(undefined.is_empty(), "{name}: {undefined:?}");
        assert!(object.symbols().count() > 3, "{name}: no symbols were read");
    });
}

#[test]
fn the_licence_allows_every_helper() {
    each_object(|name, object| {
        let licence = object.section_by_name("license").expect("a licence");
        assert_eq!(licence.data().unwrap(), b"Dual MIT/GPL\0", "{name}");
    });
}

#[test]
fn the_programs_are_those_that_are_loaded() {
    let object = object::File::parse(OBJECT).unwrap();
    let names: Vec<_> = programs(&object).into_iter().collect();
    assert_eq!(names, ["balancer", "capturing", "clock", "decap", "health_encap", "pass", "root", "tap"]);
}

#[test]
fn only_known_helpers_are_called() {
    let object = object::File::parse(OBJECT).unwrap();
    let mut called = BTreeSet::new();
    for function in functions(&object).values() {
        let mut wide = false;
        for instruction in &function.instructions {
            if !wide && instruction.opcode == Instruction::CALL && !instruction.is_local_call() {
                called.insert(instruction.immediate as u32);
            }
            wide = !wide && instruction.opcode == Instruction::WIDE;
        }
    }
    let known: BTreeSet<u32> = HELPERS.iter().map(|(id, _)| *id).collect();
    assert!(called.is_subset(&known), "{called:?}, of which only {HELPERS:?} are known");
    assert!(called.contains(&44), "nobody makes room: was the code read?");
}

/// A call of another function costs 8 ns and hides what is known of a packet.
#[test]
fn few_functions_are_not_inlined() {
    let object = object::File::parse(OBJECT).unwrap();
    let functions = functions(&object);
    let programs = programs(&object);
    let others: Vec<_> = functions.keys().filter(|name| !programs.contains(name.as_str())).collect();
    println!("{} functions: {others:#?}", others.len());
    assert!(others.len() <= FUNCTIONS, "{others:#?}");
}

/// The deepest chain of calls from `name` on, in bytes of stack.
fn chain(functions: &BTreeMap<String, Function>, name: &str, level: u32) -> i64 {
    assert!(level < 8, "{name}: the kernel allows eight calls within one another (MAX_CALL_FRAMES)");
    let function = functions.get(name).unwrap_or_else(|| panic!("no function {name}"));
    let own = stack_depth(&function.instructions).max(1);
    let own = (own + STACK_STEP - 1) / STACK_STEP * STACK_STEP;
    own + function.calls.iter().map(|callee| chain(functions, callee, level + 1)).max().unwrap_or(0)
}

#[test]
fn the_stack_has_room() {
    for bytes in [OBJECT, REFERENCES] {
        let object = object::File::parse(bytes).unwrap();
        let functions = functions(&object);
        for program in programs(&object) {
            let (own, depth) = (stack_depth(&functions[program].instructions), chain(&functions, program, 0));
            println!("{program}: {own} bytes of stack, {depth} with all that it calls (limit {STACK})");
            assert!(depth <= STACK, "{program}: {depth} bytes of stack");
            assert!(program != "balancer" || own > 0, "no use of the stack: was the code read?");
        }
    }
}

#[test]
fn the_verifier_has_room() {
    let plan = parse("[node]\nnext_hop_mac = \"02:00:00:00:00:09\"\nlocal_mac = \"02:00:00:00:00:01\"\n", "budget").unwrap().plan;
    let sizes = Sizes { flow_sets: 64, ..Sizes::for_plan(&plan, 1) };
    let loaded = Balancer::load(&Role::Unpinned, sizes).and_then(|balancer| balancer.budget());
    let forward = match loaded {
        Ok(budget) => budget,
        Err(error) if std::env::var_os("TANDEM_REQUIRE_KERNEL").is_none() => {
            println!("SKIPPED: only the kernel knows what its verifier followed: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let replay = Instance::with_sizes(Backend::Xdp, &plan, 0, sizes).unwrap().budget().expect("a kernel seat");
    let with = |features| Balancer::load(&Role::Unpinned, Sizes { features, ..sizes }).and_then(|b| b.budget()).unwrap();
    let (smallest, fullest, katran) =
        (with(0), with(features::ALL), with(features::ALL & !features::STANDARD | features::KATRAN));
    let both = with(features::ALL & !features::PLAIN_NEVER);
    // As on kernels before 6.0 with large tables.
    let looked_up = |features, looked_up| {
        Balancer::load(&Role::Unpinned, Sizes { features, looked_up, ..sizes }).and_then(|b| b.budget()).unwrap()
    };
    let old = LookedUp { vips: false, ..LookedUp::ALL };
    let capture = |features| {
        Balancer::load_for(&Role::Unpinned, Sizes { features, ..sizes }, Some(Wish::default())).and_then(|b| b.budget()).unwrap()
    };
    for (role, budget, translated, verified) in [
        ("no features", smallest, TRANSLATED, VERIFIED),
        ("default configuration", forward, TRANSLATED_USUAL, VERIFIED_USUAL),
        ("default configuration, replay", replay, TRANSLATED, VERIFIED),
        ("every feature, several interfaces", fullest, TRANSLATED_FULL, VERIFIED_FULL),
        ("every feature, with the way of usual frames", both, TRANSLATED_BOTH, VERIFIED_FULL),
        ("default configuration, looked up but for VIPs", looked_up(sizes.features, old), TRANSLATED_USUAL, VERIFIED_USUAL),
        ("every feature, looked up", looked_up(features::ALL, LookedUp::ALL), TRANSLATED_FULL, VERIFIED_FULL),
        ("every feature, profile katran", katran, TRANSLATED_FULL, VERIFIED_FULL),
        ("no features, capture", capture(0), TRANSLATED, VERIFIED),
        ("default configuration, capture", capture(sizes.features), TRANSLATED, VERIFIED),
        ("every feature, capture", capture(features::ALL), TRANSLATED_CAPTURE, VERIFIED_FULL),
    ] {
        println!(
            "balancer, {role}: {} instructions (limit {translated}), {} bytes of machine code, {} verified (limit {verified} of 1,000,000)",
            budget.translated, budget.jitted, budget.verified
        );
        assert!(budget.translated > 100 && budget.translated <= translated, "{role}: {budget:?}");
        assert!(budget.verified >= budget.translated / 2 && budget.verified <= verified, "{role}: {budget:?}");
    }
}

/// The program calls itself only for what is in tunnels to this host. That it might costs instructions of each frame.
#[test]
fn only_what_opens_tunnels_calls_itself() {
    const TAIL_CALL: i32 = 12;
    let sizes = Sizes::for_plan(&parse("", "default").unwrap().plan, 8);
    for (decap, calls) in [(0, 0), (features::DECAP_IPIP, 1), (features::DECAP_GUE, 1)] {
        let filled = fill(OBJECT, Sizes { features: decap, ..sizes }, 0, LookedUp::default()).unwrap();
        let functions = functions(&object::File::parse(filled.as_slice()).unwrap());
        for name in ["balancer", "capturing"] {
            let instructions = &functions[name].instructions;
            let found = instructions.iter().filter(|i| i.opcode == Instruction::CALL && i.immediate == TAIL_CALL);
            assert_eq!(found.filter(|i| !i.is_local_call()).count(), calls, "{name}, features {decap:#x}");
        }
        let others = |name: &str| functions[name].instructions.iter().filter(|i| i.immediate == TAIL_CALL).count();
        assert!(others("root") > 0 && others("tap") > 0, "other programs' calls are gone, too");
    }
}

/// No program is loaded with the number of a constant in the place of the constant.
#[test]
fn every_constant_is_filled_in() {
    let sizes = Sizes::for_plan(&parse("", "default").unwrap().plan, 8);
    let numbers = |bytes: &[u8]| -> BTreeSet<u32> {
        let functions = functions(&object::File::parse(bytes).unwrap());
        let immediates = functions.values().flat_map(|function| &function.instructions).map(|i| i.immediate as u32);
        immediates.filter(|immediate| Constant::is_one(*immediate)).collect()
    };
    assert_eq!(numbers(OBJECT), Constant::ALL.iter().map(|constant| *constant as u32).collect());
    for object in [OBJECT, REFERENCES] {
        assert_eq!(numbers(&fill(object, sizes, 0, LookedUp::default()).unwrap()), BTreeSet::new());
    }
}

/// The layout that pins, both seats and every version with the same `LAYOUT` share.
#[test]
fn entries_have_their_sizes() {
    let sizes = [
        size_of::<Root>(),
        size_of::<VipSlot>(),
        size_of::<RingLine>(),
        size_of::<Real>(),
        size_of::<FlowSet>(),
        size_of::<Line>(),
        size_of::<Trace>(),
    ];
    assert_eq!(sizes, [576, 64, 64, 64, 64, 64, 128]);
    assert!(size_of::<FlowSet>() <= WAYS * BYTES_PER_FLOW);
}

/// The default configuration: a million flows, and four CPUs and four workers that count.
#[test]
fn memory_is_within_bounds() {
    let plan = parse("", "default").unwrap().plan;
    let sizes = Sizes::for_plan(&plan, 8);
    let (bytes, per_block) = (sizes.bytes(), Sizes { blocks: 9, ..sizes }.bytes() - sizes.bytes());
    println!("{:.1} MiB: {sizes:?}; {per_block} bytes more for each core", bytes as f64 / f64::from(1 << 20));
    assert_eq!(sizes.flow_sets, 1 << 18);
    assert!(sizes.flow_sets as usize * WAYS >= plan.flow_capacity as usize);
    // 16 MiB of flows, and 8 of what they asked their ring by.
    assert!(bytes <= 40 << 20, "{bytes} bytes for the default configuration");
    assert!(per_block <= 600 << 10, "{per_block} bytes of counters for a core");
}
