//! Offers files: what a good one says, and where a bad one is wrong.

use nicompute_market::Gpu;

use super::*;

const GIB: u64 = 1 << 30;

fn ground() -> Ground {
    let gpu =
        |n: u32| Gpu { uuid: format!("GPU-{n}"), name: "test".to_owned(), memory_bytes: 80 * GIB };
    Ground {
        machine: Machine {
            cpu_model: "test".to_owned(),
            cores: 32,
            memory_bytes: 256 * GIB,
            disk_bytes: 1024 * GIB,
            gpus: (1..=4).map(gpu).collect(),
        },
        classes: vec![RuntimeClass::Standard, RuntimeClass::Gvisor],
        limits: Limits::AllButDisk,
        network: LeaseNetwork::Egress,
        ports_max: 16,
        fetches: vec!["docker.io/pytorch/*".to_owned()],
        disk_bytes: 1024 * GIB,
    }
}

fn good(text: &str) -> Vec<Defined> {
    parse(text, &ground()).unwrap_or_else(|problems| panic!("{}", shown(&problems)))
}

/// The only problem of a text: its line and field.
fn wrong(text: &str) -> (usize, String) {
    let problems = parse(text, &ground()).expect_err(text);
    assert_eq!(problems.len(), 1, "{}", shown(&problems));
    let problem = &problems[0];
    assert!(!problem.problem.is_empty() && !problem.remedy.is_empty());
    (problem.line, problem.field.clone())
}

/// A slice that is another one than its owner wrote is sold for the wrong price, or with somebody else's GPU.
#[test]
fn a_machine_in_slices() {
    let text = r#"
        [[offer]]
        id = "pair"
        gpus = ["GPU-1", "GPU-3"]
        price_micro_usd_per_gpu_hour = 1_500_000
        min_duration = "1h"
        max_duration = "7d"
        fetch = ["pytorch/*"]
        classes = ["gvisor"]
        volumes = false
        ports = 2
        network = "none"
        maintenance = [{ from = 2030-01-31T22:00:00Z, until = 2030-02-01T02:00:00Z }]

        [[offer]]
        id = "single"
        gpus = ["GPU-2"]
        cores = 4
        memory = "16 GiB"
        disk = 107374182400
        price_micro_usd_per_hour = 900_000
        images = ["ubuntu:24.04"]

        [[offer]]
        id = "small"
        copies = 3
        cores_milli = 500
        memory = "1 GiB"
        disk = "10 GiB"
        price_micro_usd_per_hour = 1_000
    "#;
    let offers = good(text);
    let ids: Vec<_> = offers.iter().map(|offer| offer.id.as_str()).collect();
    assert_eq!(ids, ["pair", "single", "small-1", "small-2", "small-3"]);
    let pair = &offers[0];
    assert_eq!(pair.share.gpus, ["GPU-1", "GPU-3"]);
    assert_eq!((pair.share.cores_milli, pair.share.memory_bytes), (16_000, 128 * GIB));
    assert_eq!(pair.machine.gpus.len(), 2);
    assert_eq!(pair.price_per_hour, MicroUsd(3_000_000));
    let conditions = &pair.conditions;
    assert_eq!((conditions.duration_millis_min, conditions.ports_max), (3_600_000, 2));
    assert_eq!(conditions.duration_millis_max, 7 * 86_400_000);
    assert_eq!(conditions.classes, [RuntimeClass::Gvisor]);
    assert_eq!((conditions.volumes, conditions.network), (VolumesAllowed::No, LeaseNetwork::None));
    assert_eq!(conditions.maintenance.len(), 1);
    assert_eq!(conditions.limits, LimitsHeld::AllButDisk, "said as it is");
    assert_eq!(offers[1].share.disk_bytes, 100 * GIB);
    assert_eq!(offers[1].images.as_deref(), Some(&["ubuntu:24.04".to_owned()][..]));
    assert_eq!((offers[2].machine.cores, offers[2].share.cores_milli), (0, 500));
    let whole = good("[[offer]]\nid = \"all\"\ngpus = \"all\"\nprice_micro_usd_per_gpu_hour = 1\n");
    assert_eq!((whole[0].share.cores_milli, whole[0].share.gpus.len()), (32_000, 4));
}

/// An operator who is not told where a file is wrong guesses, and a field that is passed over sells what was not meant.
#[test]
fn mistakes_are_named_with_their_line() {
    let offer = |more: &str| {
        format!("[[offer]]\nid = \"a\"\ngpus = [\"GPU-1\"]\nprice_micro_usd_per_hour = 1\n{more}\n")
    };
    for (more, field) in [
        ("enforce = \"all\"", "enforce"),
        ("enforce = \"some\"", "enforce"),
        ("classes = [\"kata\"]", "classes"),
        ("classes = []", "classes"),
        ("network = \"host\"", "network"),
        ("ports = 17", "ports"),
        ("min_duration = \"1s\"", "min_duration"),
        ("max_duration = \"32d\"", "max_duration"),
        ("memory = \"lots\"", "memory"),
        ("memory = -1", "memory"),
        ("memory = 1.5", "memory"),
        ("fetch = [\"*\"]", "fetch"),
        ("fetch = [\"$(x)\"]", "fetch"),
        ("fetch = [\"docker.io/*\"]", "fetch"),
        ("fetch = [\"nvcr.io/pytorch/x\"]", "fetch"),
        ("maintenance = [{ from = 2030-01-01, until = 2030-01-02 }]", "maintenance"),
        (
            "maintenance = [{ from = 2030-01-02T00:00:00Z, until = 2030-01-01T00:00:00Z }]",
            "maintenance",
        ),
        ("copies = 2", "copies"),
        ("cores = \"all\"", "file"),
        ("price_usd = 0.5", "file"),
        ("price_micro_usd_per_hour = 2", "file"),
    ] {
        assert_eq!(wrong(&offer(more)), (5, field.to_owned()), "{more}");
    }
    assert_eq!(wrong(&offer("cores = 99")), (1, "cores".to_owned()));
    assert_eq!(wrong(""), (1, "file".to_owned()));
    assert_eq!(wrong("\n\n["), (3, "file".to_owned()));
    let other = offer("").replace("GPU-1", "GPU-9");
    assert_eq!(wrong(&other), (3, "gpus".to_owned()));
    let twice = offer("").replace("[\"GPU-1\"]", "[\"GPU-1\", \"GPU-1\"]");
    assert_eq!(parse(&twice, &ground()).unwrap_err()[0].line, 3);
    let no_price = offer("").replace("price_micro_usd_per_hour = 1", "");
    assert_eq!(wrong(&no_price), (1, "price".to_owned()));
    let dear = offer("").replace("hour = 1", &format!("hour = {}", u64::MAX));
    assert!(parse(&dear, &ground()).is_err());
    let no_part = "[[offer]]\nid = \"a\"\nprice_micro_usd_per_hour = 1\n";
    assert_eq!(parse(no_part, &ground()).unwrap_err().len(), 3, "cores, memory and disk");
    let name = offer("").replace("\"a\"", "\"../x\"");
    assert_eq!(wrong(&name), (2, "id".to_owned()));
}

/// What is sold twice is given to two.
#[test]
fn nothing_is_sold_twice() {
    let offer = |id: &str, gpu: u32, memory: &str| {
        format!(
            "[[offer]]\nid = \"{id}\"\ngpus = [\"GPU-{gpu}\"]\nprice_micro_usd_per_hour = 1\nmemory = \"{memory}\"\n"
        )
    };
    good(&[offer("a", 1, "128 GiB"), offer("b", 2, "128 GiB")].concat());
    let overlap = [offer("a", 1, "1 GiB"), offer("b", 1, "1 GiB")].concat();
    assert_eq!(wrong(&overlap), (6, "gpus".to_owned()));
    let oversold = [offer("a", 1, "128 GiB"), offer("b", 2, "129 GiB")].concat();
    assert_eq!(wrong(&oversold), (6, "memory".to_owned()));
    let same = [offer("a", 1, "1 GiB"), offer("a", 2, "1 GiB")].concat();
    assert_eq!(wrong(&same), (6, "id".to_owned()));
    let many = "[[offer]]\nid = \"a\"\ncopies = 200\ncores_milli = 1\nmemory = \"32 MiB\"\ndisk = \"32 MiB\"\nprice_micro_usd_per_hour = 1\n";
    assert_eq!(wrong(many), (1, "file".to_owned()));
}

/// A node whose tenants have filled its disk must start again with the file that it had.
#[test]
fn disk_that_is_held_counts_as_there() {
    let text =
        "[[offer]]\nid = \"a\"\ngpus = \"all\"\ndisk = \"1 TiB\"\nprice_micro_usd_per_hour = 1\n";
    let mut ground = ground();
    (ground.machine.disk_bytes, ground.disk_bytes) = (100 * GIB, 100 * GIB);
    assert!(parse(text, &ground).is_err());
    ground.disk_bytes = 1024 * GIB;
    assert!(parse(text, &ground).is_ok());
}

/// Whatever is in the file, reading it must end with offers or with words.
#[test]
fn noise_is_refused() {
    let text = "[[offer]]\nid = \"pair\"\ngpus = [\"GPU-1\"]\nprice_micro_usd_per_gpu_hour = 15\nmaintenance = [{ from = \
                2030-01-31T22:00:00Z, until = 2030-02-01T02:00:00Z }]\n";
    let mut seed = 7_u64;
    for _ in 0..2_000 {
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..3 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = usize::try_from(seed >> 33).unwrap() % bytes.len();
            bytes[at] = b"\"[]{}=-0919.\n#aZ:"[usize::try_from(seed >> 20).unwrap() % 17];
        }
        if let Ok(text) = String::from_utf8(bytes) {
            drop(parse(&text, &ground()));
        }
    }
}
