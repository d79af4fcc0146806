use super::*;
use crate::gpu::testing::{context, download, golden, model, numbers, rounded};
use crate::kernels::params::LORA_COLUMN_STEP;
use crate::model::Model;
use crate::model::adapter::EmbeddingLora;
use crate::model::weights::Checkpoint;

/// The columns that sit at a site: what is expected there, number by number, from the definition.
struct Expected {
    a: Vec<f32>,
    b: Vec<f32>,
    column: Vec<(u32, f32)>,
}

impl Expected {
    /// Every part's rows in the adapter's range, one after the other; B by output column. All fit.
    fn new(
        config: &ModelConfig,
        adapters: &[Option<Arc<Adapter>>],
        ranges: &Ranges,
        layer: usize,
        site: Site,
    ) -> Expected {
        let (n, k) = site.shape(config);
        let columns = ranges.total;
        let mut expected = Expected {
            a: vec![0.0; columns * k],
            b: vec![0.0; n * columns],
            column: vec![(LORA_NO_SLOT, 0.0); columns],
        };
        for (slot, adapter) in adapters.iter().enumerate() {
            let Some(adapter) = adapter else { continue };
            let mut column = ranges.of(slot).start;
            for part in adapter.parts(layer, site) {
                for r in 0..part.rank {
                    expected.a[column * k..][..k].copy_from_slice(&part.a[r * k..][..k]);
                    for i in 0..part.width {
                        expected.b[(part.column + i) * columns + column] = part.bt[r * part.width + i];
                    }
                    expected.column[column] = (slot as u32, part.scale);
                    column += 1;
                }
            }
            assert!(column <= ranges.of(slot).end);
        }
        expected
    }
}

fn values<T: bytemuck::Pod>(bytes: &[u8]) -> Vec<T> {
    bytes
        .chunks_exact(size_of::<T>())
        .map(bytemuck::pod_read_unaligned)
        .collect()
}

fn entries(bytes: &[u8]) -> Vec<(u32, f32)> {
    let columns: Vec<LoraColumn> = values(bytes);
    columns.iter().map(|column| (column.slot, column.scale)).collect()
}

/// Reads everything back, the factors of the embedding tables too.
fn check(context: &Context, config: &ModelConfig, precision: Half, resident: &DeviceAdapters) {
    for (layer, site) in (0..config.num_hidden_layers).flat_map(|layer| Site::ALL.map(|site| (layer, site))) {
        let expected = Expected::new(
            config,
            &resident.adapters,
            &resident.ranges[site as usize],
            layer,
            site,
        );
        let at = resident.linear(layer, site);
        let columns = resident.ranges[site as usize].total;
        assert_eq!(columns % LORA_COLUMN_STEP as usize, 0);
        if columns == 0 {
            assert_eq!(at, LoraAt::default());
            continue;
        }
        let here = format!("{site:?} of layer {layer}");
        let a = numbers(&download(context, at.a, 2 * expected.a.len()));
        assert!(a == rounded(precision, &expected.a), "A at {here}");
        let b = numbers(&download(context, at.b, 2 * expected.b.len()));
        assert!(b == rounded(precision, &expected.b), "B at {here}");
        assert_eq!(
            entries(&download(context, at.column, 8 * columns)),
            expected.column,
            "{here}"
        );
    }
    let adapts = |adapter: &Adapter| adapter.word.is_some() || adapter.token_type.is_some();
    let any = resident.adapters.iter().flatten().any(|adapter| adapts(adapter));
    assert_eq!(resident.embed() != 0, any);
    if !any {
        return;
    }
    let table = download(context, resident.embed(), 32 * resident.slots());
    let table: Vec<EmbedAdapter> = values(&table);
    for (entry, adapter) in table.iter().zip(&resident.adapters) {
        let word = adapter.as_ref().and_then(|adapter| adapter.word.as_ref());
        let token_type = adapter.as_ref().and_then(|adapter| adapter.token_type.as_ref());
        assert_eq!((entry.a != 0, entry.b != 0), (word.is_some(), word.is_some()));
        assert_eq!(entry.token_type != 0, token_type.is_some());
        if let Some(word) = word {
            assert_eq!((entry.rank as usize, entry.scale), (word.rank(), word.scale()));
            let a = numbers(&download(context, entry.a, 2 * config.vocab_size * word.rank()));
            let mut expected = vec![0.0; config.vocab_size * word.rank()];
            word.read_a(0, &mut expected);
            assert!(a == rounded(precision, &expected), "A of the words");
            let b = numbers(&download(context, entry.b, 2 * word.rank() * config.hidden_size));
            assert!(b == rounded(precision, word.b()), "B of the words");
        }
        if let Some(token_type) = token_type {
            let found = download(context, entry.token_type, 4 * config.hidden_size);
            let found: Vec<f32> = values(&found);
            assert_eq!(found, type_row(token_type, config.hidden_size));
        }
    }
}

/// scale · A[0] B, in the order that the CPU takes.
fn type_row(lora: &EmbeddingLora, hidden: usize) -> Vec<f32> {
    let mut a = vec![0.0; lora.rank()];
    lora.read_a(0, &mut a);
    let mut row = vec![0.0; hidden];
    for (r, a) in a.iter().enumerate() {
        for (x, b) in row.iter_mut().zip(&lora.b()[r * hidden..]) {
            *x += a * lora.scale() * b;
        }
    }
    row
}

fn peft(name: &str, folder: &str, config: &ModelConfig) -> Adapter {
    Adapter::read_peft(name, &golden(folder), config).unwrap()
}

#[test]
fn adapters_come_and_go_and_keep_their_places() {
    let Some(context) = context() else { return };
    let Model { config, adapters, .. } = model("jina-hub");
    for precision in [Half::Bf16, Half::F16] {
        let new = |table: &AdapterTable, previous| {
            let resident = DeviceAdapters::new(&context, &config, precision, table, previous).unwrap();
            check(&context, &config, precision, &resident);
            resident
        };
        let mut table = AdapterTable::default();
        let none = new(&table, None);
        assert_eq!((none.bytes(), none.slots(), none.ranges[0].total), (0, 0, 0));

        for adapter in model("jina-hub").adapters {
            table.add(adapter).unwrap();
        }
        assert_eq!(adapters.len(), 5);
        let first = new(&table, Some(&none));
        // Five of rank 4.
        assert_eq!(Site::ALL.map(|site| first.ranges[site as usize].total), [32; 4]);

        table.remove("retrieval.passage").unwrap();
        let second = new(&table, Some(&first));
        // The old one is as it was, for batches that still run.
        check(&context, &config, precision, &first);
        table
            .add(peft("again", "jina-native/separation", &config))
            .unwrap();
        table
            .add(peft("more", "jina-native/retrieval_query", &config))
            .unwrap();
        let third = new(&table, Some(&second));
        for slot in [0, 2, 3, 4] {
            for (before, after) in [(&first, &second), (&second, &third)] {
                assert_eq!(
                    before.ranges.each_ref().map(|r| r.of(slot)),
                    after.ranges.each_ref().map(|r| r.of(slot))
                );
                let shared = (&before.embeddings[slot], &after.embeddings[slot]);
                assert!(
                    matches!(shared, (Some(a), Some(b)) if Arc::ptr_eq(a, b)),
                    "uploaded again"
                );
            }
        }
        // The gap is filled; the next comes behind.
        assert_eq!(
            third.ranges.each_ref().map(|r| r.of(1)),
            first.ranges.each_ref().map(|r| r.of(1))
        );
        assert_eq!(third.ranges[0].of(5), 20..24);
        drop((first, second));
        check(&context, &config, precision, &third);
        // PEFT's layout of A is turned, and holds the same numbers as the stacked one, which is the device's.
        let file = Checkpoint::open_folder(&golden("jina-hub")).unwrap();
        let stack = file
            .any("roberta.embeddings.word_embeddings.parametrizations.weight.0.lora_A")
            .unwrap();
        let expected = rounded(precision, &stack.index(0).read());
        for slot in [0, 5] {
            let factors = third.embeddings[slot].as_ref().unwrap();
            let found = numbers(&download(&context, factors.entry.a, 2 * expected.len()));
            assert!(found == expected, "slot {slot}");
        }
    }
}

#[test]
fn another_adapter_of_the_same_name_is_another() {
    let Some(context) = context() else { return };
    let config = model("jina-hub").config;
    let mut table = AdapterTable::default();
    table
        .add(peft("mine", "jina-native/separation", &config))
        .unwrap();
    let first = DeviceAdapters::new(&context, &config, Half::Bf16, &table, None).unwrap();
    table.remove("mine").unwrap();
    table
        .add(peft("mine", "jina-native/classification", &config))
        .unwrap();
    let second = DeviceAdapters::new(&context, &config, Half::Bf16, &table, Some(&first)).unwrap();
    check(&context, &config, Half::Bf16, &second);
}

#[test]
fn parts_of_queries_and_values_leave_the_others_alone() {
    let Some(context) = context() else { return };
    let config = model("bert").config;
    let mut table = AdapterTable::default();
    table.add(peft("one", "bert/user", &config)).unwrap();
    table.add(peft("two", "bert/user", &config)).unwrap();
    let resident = DeviceAdapters::new(&context, &config, Half::F16, &table, None).unwrap();
    // Rank 6 for each of q and v, twice; the projection once; nothing in the feed-forward layers.
    assert_eq!(
        Site::ALL.map(|site| resident.ranges[site as usize].total),
        [32, 16, 0, 0]
    );
    assert_eq!(resident.embed(), 0);
    check(&context, &config, Half::F16, &resident);
    let (hidden, columns) = (config.hidden_size, 32);
    let b = numbers(&download(
        &context,
        resident.linear(0, Site::Qkv).b,
        2 * 3 * hidden * columns,
    ));
    let used = |rows: Range<usize>, columns: Range<usize>| {
        let mut rows = rows.map(|row| &b[row * 32..][columns.clone()]);
        rows.any(|row| row.iter().any(|&number| number != 0))
    };
    let (q, k, v) = (0..hidden, hidden..2 * hidden, 2 * hidden..3 * hidden);
    for start in [0, 12] {
        assert!(used(q.clone(), start..start + 6) && !used(q.clone(), start + 6..start + 12));
        assert!(!used(k.clone(), start..start + 12));
        assert!(!used(v.clone(), start..start + 6) && used(v.clone(), start + 6..start + 12));
    }
}

/// What a resident of these adapters would hold, without a device.
fn contents<'a>(
    config: &'a ModelConfig,
    precision: Half,
    adapters: &'a [Option<Arc<Adapter>>],
    ranges: &'a [Ranges; 4],
) -> (AdapterLayout, Vec<u8>) {
    let contents = Contents {
        config,
        precision,
        adapters,
        embeddings: vec![None; adapters.len()],
        ranges,
    };
    let at = contents.layout(0);
    let mut whole = vec![0xcc; at.bytes as usize];
    contents.image(&at).write(0, &mut whole).unwrap();
    (at, whole)
}

/// Side by side, in the order of the slots.
fn ranges_of(adapters: &[Option<Arc<Adapter>>]) -> [Ranges; 4] {
    Site::ALL.map(|site| {
        let mut end = 0;
        let range = |adapter: &Option<Arc<Adapter>>| {
            let start = end;
            end += adapter.as_ref().map_or(0, |a| a.rank(site));
            start..end
        };
        Ranges {
            ranges: adapters.iter().map(range).collect(),
            total: end.next_multiple_of(LORA_COLUMN_STEP as usize),
        }
    })
}

#[test]
fn an_adapter_whose_numbers_do_not_fit_spoils_its_own_rows_alone() {
    let Model {
        config, mut adapters, ..
    } = model("jina-hub");
    adapters.truncate(2);
    let mut adapters: Vec<_> = adapters
        .into_iter()
        .map(|adapter| Some(Arc::new(adapter)))
        .collect();
    let ranges = ranges_of(&adapters);
    let huge = 2f32.powi(65);
    for (b, precision, fits) in [
        (65520.0, Half::Bf16, true),
        (65520.0, Half::F16, false),
        (LARGEST_B, Half::Bf16, true),
        (huge, Half::Bf16, false),
        (-huge, Half::Bf16, false),
        (f32::MAX, Half::Bf16, false),
    ] {
        // In layer 1 at out_proj: row 2 of the second adapter's Bᵀ; A may hold what it will.
        let adapter = adapters[1].as_mut().and_then(Arc::get_mut).unwrap();
        let part = &mut adapter.layers[1][Site::OutProj as usize][0];
        let at = 2 * part.width + 5;
        part.bt[at] = b;
        part.a[0] = -1e6;
        let (at, whole) = contents(&config, precision, &adapters, &ranges);
        for (layer, site) in (0..config.num_hidden_layers).flat_map(|l| Site::ALL.map(|site| (l, site))) {
            let mut expected = Expected::new(&config, &adapters, &ranges[site as usize], layer, site);
            let broken = !fits && (layer, site) == (1, Site::OutProj);
            let column = ranges[site as usize].of(1).start + 2;
            if broken {
                let columns = expected.column.len();
                expected.b.chunks_mut(columns).for_each(|row| row[column] = 0.0);
            }
            let at = at.linear[layer][site as usize];
            let b = numbers(&whole[at.b as usize..][..2 * expected.b.len()]);
            assert!(
                b == rounded(precision, &expected.b),
                "{precision}: B at {site:?} of layer {layer}"
            );
            let a = numbers(&whole[at.a as usize..][..2 * expected.a.len()]);
            assert!(
                a == rounded(precision, &expected.a),
                "{precision}: A at {site:?} of layer {layer}"
            );
            let found = entries(&whole[at.column as usize..][..8 * expected.column.len()]);
            for (index, (found, expected)) in found.iter().zip(&expected.column).enumerate() {
                assert_eq!(found.0, expected.0);
                match broken && index == column {
                    true => assert!(found.1.is_nan()),
                    false => assert_eq!(found.1, expected.1),
                }
            }
        }
    }
}

#[test]
fn a_layer_with_less_than_others_has_padding() {
    let Model {
        config, mut adapters, ..
    } = model("jina-hub");
    adapters.truncate(2);
    adapters[0].layers[1][Site::Fc2 as usize].clear();
    let adapters: Vec<_> = adapters
        .into_iter()
        .map(|adapter| Some(Arc::new(adapter)))
        .collect();
    let ranges = ranges_of(&adapters);
    let (at, whole) = contents(&config, Half::Bf16, &adapters, &ranges);
    let at = at.linear[1][Site::Fc2 as usize];
    let found = entries(&whole[at.column as usize..][..8 * 16]);
    let slots: Vec<u32> = found.iter().map(|entry| entry.0).collect();
    let none = LORA_NO_SLOT;
    assert_eq!(slots[..8], [none, none, none, none, 1, 1, 1, 1]);
    assert!(slots[8..].iter().all(|&slot| slot == none));
    let a = &whole[at.a as usize..][..2 * 4 * config.intermediate_size];
    assert!(a.iter().all(|&byte| byte == 0));
}
