//! Random operations on both logs, against a model that is too simple to be wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_crds::config::Topic;
use millrace_dataplane::log::{Committed, GroupHandle, Transaction};
use proptest::prelude::*;

use crate::bench::{Bench, EVENTS, Kind, START, position, record, topic, value};

/// Partitions a topic may grow to.
const PARTITIONS_MAX: u32 = 4;

#[derive(Clone, Debug)]
enum Step {
    /// Partition and length of each record.
    Append(Vec<(u32, usize)>),
    /// Records, and a position of a partition.
    Transact(Vec<(u32, usize)>, u32, u64),
    Commit(u32, u64),
    Grow(u32),
    Tick(i64),
    Retain,
    Reopen,
}

#[derive(Default)]
struct Model {
    partitions: Vec<Vec<String>>,
    lows: Vec<u64>,
    positions: BTreeMap<u32, Committed>,
    written: u32,
}

impl Model {
    fn grow(&mut self, partitions: u32) {
        let partitions = self.partitions.len().max(partitions as usize);
        self.partitions.resize_with(partitions, Vec::new);
        self.lows.resize(partitions, 0);
    }

    fn has(&self, partition: u32) -> bool {
        (partition as usize) < self.partitions.len()
    }

    /// Values for the records, and the offsets they must get.
    fn write(&mut self, sizes: &[(u32, usize)]) -> (Vec<(u32, String)>, Vec<u64>) {
        let write = |&(partition, length): &(u32, usize)| {
            self.written += 1;
            let value = format!("{}:{}", self.written, "x".repeat(length));
            let values = &mut self.partitions[partition as usize];
            values.push(value.clone());
            ((partition, value), values.len() as u64 - 1)
        };
        sizes.iter().map(write).unzip()
    }
}

fn step() -> impl Strategy<Value = Step> {
    let records = || {
        prop::collection::vec((0..PARTITIONS_MAX, prop_oneof![0..200_usize, 100_000..300_000_usize]), 0..6)
    };
    prop_oneof![
        4 => records().prop_map(Step::Append),
        3 => (records(), 0..PARTITIONS_MAX, 0..20_u64).prop_map(|(r, p, o)| Step::Transact(r, p, o)),
        2 => (0..PARTITIONS_MAX, 0..20_u64).prop_map(|(p, o)| Step::Commit(p, o)),
        1 => (1..=PARTITIONS_MAX).prop_map(Step::Grow),
        2 => (-2000..5000_i64).prop_map(Step::Tick),
        2 => Just(Step::Retain),
        2 => Just(Step::Reopen),
    ]
}

async fn run(kind: Kind, bytes_max: Option<u64>, steps: Vec<Step>) {
    let mut bench = Bench::new(kind);
    let mut model = Model::default();
    let kept =
        |partitions| Topic { retention_ms: 3000, retention_bytes: bytes_max, ..topic(EVENTS, partitions) };
    bench.ensure(&[kept(1)]).await;
    model.grow(1);
    for step in steps {
        carry_out(&mut bench, &mut model, step, &kept).await;
        compare_watermarks(&bench, &mut model).await;
    }
    compare(&bench, &model).await;
    bench.reopen();
    compare(&bench, &model).await;
}

async fn carry_out(bench: &mut Bench, model: &mut Model, step: Step, kept: &impl Fn(u32) -> Topic) {
    match step {
        Step::Append(sizes) => {
            if sizes.iter().any(|&(partition, _)| !model.has(partition)) {
                let records = sizes.iter().map(|&(partition, _)| record(partition, "no")).collect();
                bench.log().append(records).await.unwrap_err();
                return;
            }
            let (values, offsets) = model.write(&sizes);
            let records = values.iter().map(|(partition, value)| record(*partition, value)).collect();
            assert_eq!(bench.log().append(records).await.unwrap(), offsets);
        }
        Step::Transact(sizes, partition, offset) => {
            let mut transactor = bench.log().transactor("t").await.unwrap();
            let group = GroupHandle { name: Arc::from("g"), inner: None };
            let positions = vec![position(partition, offset, "by transaction")];
            if !model.has(partition) || sizes.iter().any(|&(partition, _)| !model.has(partition)) {
                let records = sizes.iter().map(|&(partition, _)| record(partition, "no")).collect();
                transactor.commit(Transaction { records, positions, group }).await.unwrap_err();
                return;
            }
            let (values, _) = model.write(&sizes);
            let records = values.iter().map(|(partition, value)| record(*partition, value)).collect();
            model.positions.insert(partition, positions[0].committed.clone());
            transactor.commit(Transaction { records, positions, group }).await.unwrap();
        }
        Step::Commit(partition, offset) => {
            let (mut consumer, _) = bench.join("g").await;
            let position = position(partition, offset, &format!("{offset}"));
            let committed = consumer.commit(vec![position.clone()]).await;
            assert_eq!(committed.is_ok(), model.has(partition));
            if committed.is_ok() {
                model.positions.insert(partition, position.committed);
            }
        }
        Step::Grow(partitions) => {
            bench.ensure(&[kept(partitions)]).await;
            model.grow(partitions);
        }
        Step::Tick(ms) => bench.tick(ms),
        Step::Retain => drop(bench.retain().await),
        Step::Reopen => bench.reopen(),
    }
}

async fn compare_watermarks(bench: &Bench, model: &mut Model) {
    for (partition, values) in (0..).zip(&model.partitions) {
        let (low, high) = bench.watermarks(partition).await;
        assert_eq!(high, values.len() as u64);
        assert!(model.lows[partition as usize] <= low && low <= high, "{low} of {high}");
        model.lows[partition as usize] = low;
    }
}

async fn compare(bench: &Bench, model: &Model) {
    for (partition, values) in (0..).zip(&model.partitions) {
        let low = model.lows[partition as usize];
        let records = bench.read(partition, 0).await;
        let offsets: Vec<_> = records.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, (low..values.len() as u64).collect::<Vec<_>>());
        let read: Vec<_> = records.iter().map(value).collect();
        assert!(read.iter().eq(&values[usize::try_from(low).unwrap()..]), "partition {partition}");
        assert!(records.is_sorted_by_key(|record| record.appended_at));
        assert!(records.iter().all(|record| record.appended_at >= START - 100_000));
    }
    let (_, assigned) = bench.join("g").await;
    for given in assigned {
        assert_eq!(given.committed.as_ref(), model.positions.get(&given.partition.partition));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_operations_leaves_what_the_model_says(
        kind in prop_oneof![Just(Kind::Embedded), Just(Kind::Memory)],
        bytes_max in prop_oneof![Just(None), Just(Some(1000))],
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(kind, bytes_max, steps));
    }
}
