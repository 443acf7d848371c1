//! Consumers and their groups: on every log.

use std::sync::Arc;

use millrace_dataplane::log::{LogError, Polled, ReadLimits};

use crate::bench::{
    LONG, assert_error, assert_idle, at, events, limits, on_each, own, position, record, take, topic,
};

#[tokio::test]
async fn a_new_group_starts_at_the_first_record_there_is() {
    on_each(async |bench| {
        bench.append(0, "a").await;
        let (mut consumer, assigned) = bench.join(&own("g")).await;
        let given: Vec<_> = assigned.iter().map(|given| given.partition.clone()).collect();
        assert_eq!(given, [at(0), at(1)]);
        assert!(assigned.iter().all(|given| given.committed.is_none() && given.topic.partitions == 2));
        assert_eq!(take(&mut consumer, 10).await, (0, vec!["a".to_owned()]));
        assert_idle(&mut consumer).await;
    })
    .await;
}

#[tokio::test]
async fn a_group_resumes_where_it_committed_with_its_metadata() {
    on_each(async |bench| {
        let text = "v1;9;3;17;ü;".to_owned() + &"m".repeat(4000);
        bench.log().append(vec![record(0, "a"), record(0, "b"), record(0, "c")]).await.unwrap();
        let (mut consumer, _) = bench.join(&own("g")).await;
        assert_eq!(take(&mut consumer, 2).await.1, ["a", "b"]);
        consumer.commit(vec![position(0, 1, "older"), position(0, 2, &text)]).await.unwrap();
        consumer.commit(Vec::new()).await.unwrap();
        drop(consumer);
        bench.reopen();
        let (mut consumer, assigned) = bench.join(&own("g")).await;
        assert_eq!(assigned[0].committed, Some(position(0, 2, &text).committed));
        assert_eq!(take(&mut consumer, 10).await.1, ["c"]);
        let (_, others) = bench.join(&own("another")).await;
        assert_eq!(others[0].committed, None, "positions belong to one group");
        let over = consumer.commit(vec![position(0, 3, &"m".repeat(4097))]).await;
        assert_error(over, |error| matches!(error, LogError::TooLarge { bytes_max: 4096, .. }));
    })
    .await;
}

#[tokio::test]
async fn where_a_group_stands_can_be_asked_from_outside() {
    on_each(async |bench| {
        bench.log().append(vec![record(0, "a"), record(0, "b")]).await.unwrap();
        let group = own("g");
        let (mut consumer, _) = bench.join(&group).await;
        assert_eq!(take(&mut consumer, 1).await.1, ["a"]);
        let asked = [at(1), at(0)];
        assert_eq!(bench.log().committed(&group, &asked).await.unwrap(), [None, None]);
        let kept = position(0, 1, "v1;ü");
        consumer.commit(vec![kept.clone()]).await.unwrap();
        assert_eq!(bench.log().committed(&group, &asked).await.unwrap(), [None, Some(kept.committed)]);
        assert_eq!(bench.log().committed(&own("another"), &asked).await.unwrap(), [None, None]);
    })
    .await;
}

#[tokio::test]
async fn a_waiting_consumer_is_woken_by_a_commit() {
    on_each(async |bench| {
        let (mut consumer, _) = bench.join(&own("g")).await;
        let (taken, _) = tokio::join!(take(&mut consumer, 10), bench.append(1, "now"));
        assert_eq!(taken, (1, vec!["now".to_owned()]));
    })
    .await;
}

#[tokio::test]
async fn groups_do_not_disturb_each_other() {
    on_each(async |bench| {
        let (mut one, _) = bench.join(&own("one")).await;
        let (mut two, _) = bench.join(&own("two")).await;
        bench.append(0, "a").await;
        assert_eq!(take(&mut one, 1).await.1, ["a"]);
        one.commit(vec![position(0, 1, "")]).await.unwrap();
        assert_eq!(take(&mut two, 1).await.1, ["a"]);
    })
    .await;
}

#[tokio::test]
async fn new_partitions_are_given_to_who_reads_the_topic() {
    on_each(async |bench| {
        let other = &*own("seen");
        let (mut consumer, _) = bench.join(&own("g")).await;
        bench.ensure(&[topic(events(), 4), topic(other, 3)]).await;
        let wait = ReadLimits { wait_max: LONG, ..limits(10) };
        let Polled::Assigned(new) = consumer.next(wait).await.unwrap() else { panic!("not assigned") };
        let given: Vec<_> = new.iter().map(|given| given.partition.clone()).collect();
        assert_eq!(given, [at(2), at(3)]);
        assert!(new.iter().all(|given| given.topic.partitions == 4));
        bench.append(3, "there").await;
        assert_eq!(take(&mut consumer, 1).await, (3, vec!["there".to_owned()]));
        bench.ensure(&[topic(events(), 4)]).await;
        assert_idle(&mut consumer).await;
    })
    .await;
}

#[tokio::test]
async fn seek_goes_back_and_forth() {
    on_each(async |bench| {
        bench.log().append(vec![record(0, "a"), record(0, "b"), record(0, "c")]).await.unwrap();
        let (mut consumer, _) = bench.join(&own("g")).await;
        assert_eq!(take(&mut consumer, 1).await.1, ["a"]);
        consumer.seek(&at(0), 2).await.unwrap();
        assert_eq!(take(&mut consumer, 10).await.1, ["c"]);
        consumer.seek(&at(0), 0).await.unwrap();
        assert_eq!(take(&mut consumer, 2).await.1, ["a", "b"]);
        assert_error(consumer.seek(&at(7), 0).await, |e| matches!(e, LogError::UnknownPartition { .. }));
    })
    .await;
}

#[tokio::test]
async fn dropping_next_half_way_loses_no_record() {
    on_each(async |bench| {
        let (mut consumer, _) = bench.join(&own("g")).await;
        for n in 0..50_u32 {
            bench.append(0, &n.to_string()).await;
        }
        let mut read: Vec<String> = Vec::new();
        while read.len() < 50 {
            // Polled once and dropped: where it stands then depends on how fast the read is.
            let dropped = futures::FutureExt::now_or_never(consumer.next(limits(3)));
            if let Some(Ok(Polled::Records(_, records))) = dropped {
                read.extend(records.iter().map(crate::bench::value));
            } else {
                read.extend(take(&mut consumer, 3).await.1);
            }
        }
        assert_eq!(read, (0..50).map(|n: u32| n.to_string()).collect::<Vec<_>>());
    })
    .await;
}

#[tokio::test]
async fn a_member_may_read_several_topics() {
    on_each(async |bench| {
        let other = &*own("dead-letters");
        bench.ensure(&[topic(other, 1)]).await;
        let topics: Vec<Arc<str>> = vec![Arc::from(other), Arc::from(events()), Arc::from(other)];
        let mut consumer = bench.log().subscribe(&own("g"), &topics).await.unwrap();
        let Polled::Assigned(given) = consumer.next(limits(1)).await.unwrap() else { panic!("not assigned") };
        assert_eq!(given.len(), 3);
        bench.append(1, "a").await;
        assert_eq!(take(&mut consumer, 1).await.1, ["a"]);
    })
    .await;
}
