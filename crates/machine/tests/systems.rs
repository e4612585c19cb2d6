//! What holds for every built-in machine, and how machines are found.

use orrery_machine::keys::{ModelKind, Shape, UNITS};
use orrery_machine::registry::BUILT_IN;
use orrery_machine::{
    ExecutionModel, Losses, PEAK_TOLERANCE, Status, SummaryRow, System, find, find_or_load, load_path,
    registry,
};
use std::collections::BTreeSet;
use std::path::Path;

#[test]
fn peaks_follow_from_cores_and_clock() {
    for system in registry() {
        for precision in &system.precisions {
            let difference = (precision.peak_flops() / precision.computed_peak(&system.model) - 1.0).abs();
            let name = format!("{} {}: {:.1} %", system.name, precision.name, difference * 100.0);
            // A reason for a difference that is not there is as wrong as a difference without a reason.
            assert_eq!(difference > PEAK_TOLERANCE, precision.peak_differs.is_some(), "{name}");
        }
    }
}

#[test]
fn printing_and_reading_gives_the_same_system() {
    for system in registry() {
        let text = system.to_string();
        let again =
            System::parse("printed", &text).unwrap_or_else(|error| panic!("{}: {error}", system.name));
        assert_eq!(&again, system);
        assert_eq!(again.to_string(), text);
    }
}

#[test]
fn awkward_text_survives_printing() {
    let mut system = find("gc200").unwrap().clone();
    system.title = "tab\t, \"quotes\", back\\slash, line\nbreak, é, bell \u{7}".to_owned();
    let again = System::parse("printed", &system.to_string()).unwrap();
    assert_eq!(again, system);
}

#[test]
fn names_are_unique_and_a100_is_the_40_gb_part() {
    let mut names = BTreeSet::new();
    for system in registry().iter().cloned().chain(registry().iter().flat_map(System::configured)) {
        for name in std::iter::once(&system.name).chain(&system.aliases) {
            assert!(names.insert(name.clone()), "two machines are called {name}");
            assert_eq!(find(name).unwrap().name, system.name);
        }
    }
    assert_eq!(find("A100").unwrap().name, "a100-40gb");
    assert_eq!(find("NVIDIA A100-80GB").unwrap().name, "a100-80gb");
}

#[test]
fn unknown_machines_get_advice() {
    assert_eq!(
        find("a100-40").unwrap_err().to_string(),
        "error[system-unknown]: there is no machine called `a100-40`\n  \
         help: did you mean `a100-40gb`?\n  \
         help: `orrery systems` lists them; a file of your own is given as --system my-chip.toml"
    );
    let missing = load_path(Path::new("no/such/chip.toml")).unwrap_err();
    assert_eq!((missing.code, missing.place), ("system-unreadable", vec!["no/such/chip.toml".to_owned()]));
}

#[test]
fn a_file_is_found_by_its_path() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../systems/bow.toml");
    let system = find_or_load(path.to_str().unwrap()).unwrap();
    assert_eq!(&system, find("bow").unwrap());
}

#[test]
fn every_key_has_a_known_unit_and_one_meaning() {
    for kind in ModelKind::ALL {
        let mut names = BTreeSet::new();
        for key in kind.parameter_keys().chain(kind.loss_keys()) {
            assert!(names.insert(key.name), "{} has two keys {}", kind.name(), key.name);
            assert!(UNITS.contains(&key.unit), "{}", key.name);
            assert!(key.meaning.trim().ends_with('.'), "{}", key.name);
            assert!(
                key.shape != Shape::Integer || ["B", "count", "cycle"].contains(&key.unit),
                "{}",
                key.name
            );
        }
    }
}

#[test]
fn every_declared_source_is_used() {
    for (file, text) in BUILT_IN {
        let system = System::parse(file, text).unwrap();
        for key in system.sources.keys() {
            let used =
                text.lines().any(|line| line.contains("source = [") && line.contains(&format!("\"{key}\"")));
            assert!(used, "{file} declares {key} and never uses it");
        }
    }
}

#[test]
fn assumptions_are_never_called_published() {
    for system in registry() {
        let precisions = system.precisions.iter().flat_map(|p| [&p.mac_per_cycle, &p.peak]);
        let stacks = system.software.iter().flat_map(|stack| stack.losses.values());
        for parameter in
            system.parameters.values().chain(system.losses.values()).chain(precisions).chain(stacks)
        {
            if parameter.sources.iter().any(|source| source == "assumption") {
                assert_eq!(parameter.status, Status::Assumed, "{}: {:?}", system.name, parameter.note);
            }
        }
        for fact in system.facts.values().filter(|fact| fact.sources.contains(&"assumption".to_owned())) {
            assert_eq!(fact.status, Status::Assumed, "{}: {}", system.name, fact.value);
        }
    }
}

#[test]
fn what_nobody_publishes_is_marked_assumed() {
    let unpublished = [
        "vertex_code_bytes",
        "vertex_state_bytes",
        "exchange_phase_bytes",
        "exchange_piece_bytes",
        "control_step_bytes",
        "tile_reserved_bytes",
    ];
    for name in ["gc200", "bow"] {
        for key in unpublished {
            assert_eq!(find(name).unwrap().parameters[key].status, Status::Assumed, "{name} {key}");
        }
    }
    let of_streams = [
        "vector_latency_cycles",
        "special_functions",
        "shift_bytes_per_cycle",
        "program_bytes",
        "memory_latency_cycles",
        "link_latency_seconds",
    ];
    for key in of_streams {
        assert_eq!(find("groqchip").unwrap().parameters[key].status, Status::Assumed, "groqchip {key}");
    }
    for name in ["a100-40gb", "a100-80gb", "h100"] {
        assert_eq!(find(name).unwrap().parameters["matrix_tiles"].status, Status::Assumed);
    }
}

#[test]
fn views_hold_the_numbers_of_the_file() {
    let a100 = find("a100-80gb").unwrap();
    let ExecutionModel::Kernel(kernel) = &a100.model else { panic!("the A100 runs kernels") };
    assert_eq!((kernel.sms, kernel.clock_hz, kernel.hbm_bandwidth), (108, 1.41e9, 2.039e12));
    assert_eq!(a100.parameters["hbm_bandwidth"].number(), Some(kernel.hbm_bandwidth));
    let gc200 = find("gc200").unwrap();
    let ExecutionModel::BulkSynchronous(ipu) = &gc200.model else { panic!("an IPU is bulk-synchronous") };
    assert_eq!(ipu.tiles * ipu.tile_bytes, 897 << 20);
    assert_eq!(gc200.parameters["sync_cycles"].alternatives.len(), 2);
    let ExecutionModel::BulkSynchronous(bow) = &find("bow").unwrap().model else { panic!("an IPU") };
    let same_cycles = orrery_machine::BspMachine { clock_hz: ipu.clock_hz, ..bow.clone() };
    assert_eq!(&same_cycles, ipu, "a Bow is a GC200 with a faster clock");
}

#[test]
fn a_configuration_is_the_chip_with_other_numbers_around_it() {
    let chip = find("Groq GroqChip1").unwrap();
    for (name, chips) in [("groqcard", 1), ("GroqNode", 8), ("groqrack", 72)] {
        let configured = find(name).unwrap();
        let ExecutionModel::Stream(machine) = &configured.model else { panic!("streams") };
        assert_eq!(
            (machine.sequence_chips, configured.links.installation_chips),
            (chips, Some(chips)),
            "{name}"
        );
        assert_eq!(configured.name, name.to_lowercase());
        assert_eq!(configured.parameters["sram_bytes"], chip.parameters["sram_bytes"]);
        let text = configured.to_string();
        assert_eq!(&System::parse("printed", &text).unwrap(), configured);
    }
}

#[test]
fn numbers_of_a_groq_chip_follow_from_its_lanes() {
    let ExecutionModel::Stream(chip) = &find("groqchip").unwrap().model else { panic!("streams") };
    assert_eq!(chip.sram_bytes, 220 << 20);
    assert_eq!(chip.plane_inputs, chip.superlanes * chip.lanes_per_superlane);
    let one_a_lane = (chip.superlanes * chip.lanes_per_superlane) as f64;
    assert_eq!(chip.stream_bytes_per_cycle, 64.0 * one_a_lane);
    assert_eq!(chip.vector_alus, 16.0 * one_a_lane);
}

#[test]
fn precisions_are_found_by_name_and_alias() {
    let gc200 = find("gc200").unwrap();
    assert_eq!(gc200.precision(None).unwrap().name, "fp16.16");
    assert_eq!(gc200.precision(Some("fp16")).unwrap().name, "fp16.16");
    assert_eq!(gc200.precision(Some("FP16.32")).unwrap().accumulate, orrery_numerics::DType::F32);
    let error = gc200.precision(Some("bf16")).unwrap_err();
    assert_eq!(error.code, "system-precision-unknown");
    assert_eq!(error.help, ["it offers: fp16.16, fp16.32, fp32"]);
}

#[test]
fn a_stack_deviates_from_the_default_of_the_machine() {
    let a100 = find("a100").unwrap();
    let Losses::Kernel(default) = a100.losses_under(None) else { panic!("losses of a kernel machine") };
    let pytorch = a100.stack("pytorch").unwrap();
    let Losses::Kernel(eager) = a100.losses_under(Some(pytorch)) else {
        panic!("losses of a kernel machine")
    };
    assert!(eager.host_seconds_per_kernel > default.host_seconds_per_kernel);
    assert_eq!(eager.matrix_fraction, default.matrix_fraction);
    assert_eq!(
        a100.loss("host_seconds_per_kernel", Some(pytorch)).and_then(orrery_machine::Parameter::number),
        Some(eager.host_seconds_per_kernel)
    );
    assert_eq!(a100.losses_under(Some(a100.stack("tensorrt").unwrap())), a100.losses_under(None));
    assert_eq!(a100.stack("pytroch").unwrap_err().help, ["did you mean `pytorch`?"]);
}

#[test]
fn the_comparison_table_is_as_expected() {
    let mut found = String::new();
    for system in registry() {
        let row = system.summary_row();
        for (heading, cell) in SummaryRow::HEADINGS.iter().zip(row.cells()) {
            found.push_str(&format!("{heading}: {cell}\n"));
        }
        for error in system.published.iter().flat_map(|published| &published.known_errors) {
            found.push_str(&format!("Known error in {}: `{}`; {}\n", error.row, error.printed, error.right));
        }
        found.push('\n');
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/comparison_table.txt");
    if std::env::var_os("ORRERY_BLESS").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    assert_eq!(found, std::fs::read_to_string(&path).unwrap(), "ORRERY_BLESS=1 rewrites it");
}

#[test]
fn a_part_of_a_chip_has_its_share() {
    let whole = find("sn30").unwrap();
    let part = whole.part(4).unwrap();
    let (ExecutionModel::Spatial(all), ExecutionModel::Spatial(half)) = (&whole.model, &part.model) else {
        panic!("an SN30 is a spatial machine")
    };
    assert_eq!((half.tiles, half.pcus, half.pmus), (4, 640, 640));
    assert_eq!((half.ddr_bandwidth * 2.0, half.ddr_bytes * 2), (all.ddr_bandwidth, all.ddr_bytes));
    assert_eq!((half.clock_hz, half.pmu_bytes), (all.clock_hz, all.pmu_bytes));
    assert_eq!(part.parameters["pcus"].number(), Some(640.0), "views hold the numbers of the parameters");
    let again = System::parse("part", &part.to_string()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(again, part, "a part prints as a system file");
    assert_eq!(&whole.part(8).unwrap(), whole);
    for (system, tiles) in [("sn30", 3), ("sn30", 0), ("sn30", 16), ("gc200", 4)] {
        assert_eq!(find(system).unwrap().part(tiles).unwrap_err().code, "system-tiles", "{system} {tiles}");
    }
}

#[test]
fn clocks_and_macs_fitted_to_a_peak_prove_nothing() {
    for name in ["sn10", "sn30", "sn40l"] {
        let system = find(name).unwrap();
        assert_eq!(system.parameters["clock_hz"].status, Status::Fitted, "{name}");
        for precision in &system.precisions {
            assert_eq!(precision.mac_per_cycle.status, Status::Fitted, "{name} {}", precision.name);
        }
        for key in ["unit_program_bytes", "program_load_seconds", "argument_load_seconds"] {
            assert_eq!(system.parameters[key].status, Status::Assumed, "{name} {key}");
        }
    }
}
