//! Four admin calls the `rdkafka` crate does not wrap: describe topics (it alone tells a topic's id), describe the
//! cluster, alter single settings (the crate's own call resets all others), and where a group stands without being a
//! member. The only unsafe code here.

#![expect(unsafe_code, reason = "calls into librdkafka; each block says what makes it sound")]

use std::ffi::{CStr, CString, c_char};
use std::ptr;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as sys;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::types::{RDKafka, RDKafkaRespErr};
use uuid::Uuid;

/// A topic as the brokers describe it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Its identity: a topic deleted and made again has another.
    pub id: Uuid,
    /// Number of partitions.
    pub partitions: u32,
    /// Copies of the partition that has the fewest.
    pub replication_factor: u16,
    /// Whether every partition has a leader, so that it can be used.
    pub has_leaders: bool,
}

/// The brokers as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Given when it was set up.
    pub id: String,
    /// How many brokers take part now.
    pub brokers: usize,
}

/// Something librdkafka made and we give back.
struct Owned<T> {
    pointer: *mut T,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// `None` where librdkafka gave nothing.
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        (!pointer.is_null()).then_some(Self { pointer, destroy })
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer is not null, came from the constructor that belongs to `destroy`, and is given back
        // once, because nobody else has it.
        unsafe { (self.destroy)(self.pointer) }
    }
}

type Event = Owned<sys::rd_kafka_event_t>;

/// Sends one admin request and waits for its answer.
fn ask(
    client: *mut RDKafka,
    time_max: Duration,
    send: impl FnOnce(*const sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
) -> Result<Event, Code> {
    let time_ms = i32::try_from(time_max.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `client` is alive for the whole call: callers hold the admin client it belongs to.
    let (options, queue) = unsafe {
        let any = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ANY;
        (sys::rd_kafka_AdminOptions_new(client, any), sys::rd_kafka_queue_new(client))
    };
    let options = Owned::new(options, sys::rd_kafka_AdminOptions_destroy).ok_or(Code::Fail)?;
    let queue = Owned::new(queue, sys::rd_kafka_queue_destroy).ok_or(Code::Fail)?;
    let mut text = [0 as c_char; 256];
    // SAFETY: the buffer is as long as it is said to be; a time-out it dislikes leaves the default.
    unsafe {
        sys::rd_kafka_AdminOptions_set_request_timeout(
            options.pointer,
            time_ms,
            text.as_mut_ptr(),
            text.len(),
        );
    }
    send(options.pointer, queue.pointer);
    // A little longer than the request itself, which ends with an error event when its time is up.
    let wait_ms = time_ms.saturating_add(1000);
    // SAFETY: the queue is alive, and nobody else polls it.
    let event = unsafe { sys::rd_kafka_queue_poll(queue.pointer, wait_ms) };
    let event = Owned::new(event, sys::rd_kafka_event_destroy).ok_or(Code::OperationTimedOut)?;
    // SAFETY: the event is alive.
    check(unsafe { sys::rd_kafka_event_error(event.pointer) })?;
    Ok(event)
}

fn check(error: RDKafkaRespErr) -> Result<(), Code> {
    match Code::from(error) {
        Code::NoError => Ok(()),
        code => Err(code),
    }
}

/// The topics that exist among those named, in no particular order.
pub(super) fn describe_topics(
    client: *mut RDKafka,
    names: &[&str],
    time_max: Duration,
) -> Result<Vec<Described>, Code> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<CString> = names
        .iter()
        .map(|name| CString::new(*name))
        .collect::<Result<_, _>>()
        .map_err(|_| Code::InvalidTopic)?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: as many pointers as said, to texts that outlive the call; it copies them.
    let topics =
        unsafe { sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len()) };
    let topics = Owned::new(topics, sys::rd_kafka_TopicCollection_destroy).ok_or(Code::Fail)?;
    let event = ask(client, time_max, |options, queue| {
        // SAFETY: all four are alive; the call copies what it keeps.
        unsafe { sys::rd_kafka_DescribeTopics(client, topics.pointer, options, queue) }
    })?;
    let mut count = 0;
    // SAFETY: the event answers a DescribeTopics, so it has such a result; both live until `event` is dropped.
    let found = unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(event.pointer);
        if result.is_null() {
            return Err(Code::Fail);
        }
        sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count)
    };
    let mut described = Vec::with_capacity(count);
    for index in 0..count {
        // SAFETY: `found` has `count` entries that live as long as the event.
        match unsafe { described_topic(*found.add(index)) } {
            Ok(topic) => described.push(topic),
            Err(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {}
            Err(code) => return Err(code),
        }
    }
    Ok(described)
}

/// # Safety
/// `topic` must be an entry of a result that is alive.
unsafe fn described_topic(topic: *const sys::rd_kafka_TopicDescription_t) -> Result<Described, Code> {
    // SAFETY: everything asked for belongs to the entry and is copied here.
    unsafe {
        check(sys::rd_kafka_error_code(sys::rd_kafka_TopicDescription_error(topic)))?;
        let name = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(topic)).to_string_lossy().into_owned();
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        let high = sys::rd_kafka_Uuid_most_significant_bits(id).cast_unsigned();
        let low = sys::rd_kafka_Uuid_least_significant_bits(id).cast_unsigned();
        let mut count = 0;
        let partitions = sys::rd_kafka_TopicDescription_partitions(topic, &raw mut count);
        let (mut copies, mut has_leaders) = (usize::MAX, count > 0);
        for index in 0..count {
            let partition = *partitions.add(index);
            let mut replicas = 0;
            sys::rd_kafka_TopicPartitionInfo_replicas(partition, &raw mut replicas);
            copies = copies.min(replicas);
            has_leaders &= !sys::rd_kafka_TopicPartitionInfo_leader(partition).is_null();
        }
        Ok(Described {
            name,
            id: Uuid::from_u64_pair(high, low),
            partitions: u32::try_from(count).unwrap_or(u32::MAX),
            replication_factor: u16::try_from(if count == 0 { 0 } else { copies }).unwrap_or(u16::MAX),
            has_leaders,
        })
    }
}

/// Id and number of brokers.
pub(super) fn describe_cluster(client: *mut RDKafka, time_max: Duration) -> Result<Cluster, Code> {
    let event = ask(client, time_max, |options, queue| {
        // SAFETY: all three are alive.
        unsafe { sys::rd_kafka_DescribeCluster(client, options, queue) }
    })?;
    // SAFETY: the event answers a DescribeCluster, so it has such a result, whose parts are copied here.
    unsafe {
        let result = sys::rd_kafka_event_DescribeCluster_result(event.pointer);
        if result.is_null() {
            return Err(Code::Fail);
        }
        let id = sys::rd_kafka_DescribeCluster_result_cluster_id(result);
        let id = if id.is_null() { String::new() } else { CStr::from_ptr(id).to_string_lossy().into_owned() };
        let mut brokers = 0;
        sys::rd_kafka_DescribeCluster_result_nodes(result, &raw mut brokers);
        Ok(Cluster { id, brokers })
    }
}

/// Sets some settings of a topic and leaves all others as they are.
pub(super) fn set_topic_settings(
    client: *mut RDKafka,
    topic: &str,
    settings: &[(&str, String)],
    time_max: Duration,
) -> Result<(), Code> {
    let name = CString::new(topic).map_err(|_| Code::InvalidTopic)?;
    let kind = sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
    // SAFETY: the text outlives the call, which copies it.
    let resource = unsafe { sys::rd_kafka_ConfigResource_new(kind, name.as_ptr()) };
    let resource = Owned::new(resource, sys::rd_kafka_ConfigResource_destroy).ok_or(Code::Fail)?;
    for (name, value) in settings {
        let name = CString::new(*name).map_err(|_| Code::InvalidConfig)?;
        let value = CString::new(value.as_str()).map_err(|_| Code::InvalidConfig)?;
        let set = sys::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET;
        // SAFETY: resource and texts are alive; the call copies the texts. An error it returns is ours to give back.
        let refused = unsafe {
            sys::rd_kafka_ConfigResource_add_incremental_config(
                resource.pointer,
                name.as_ptr(),
                set,
                value.as_ptr(),
            )
        };
        if Owned::new(refused, sys::rd_kafka_error_destroy).is_some() {
            return Err(Code::InvalidConfig);
        }
    }
    let mut resources = [resource.pointer];
    let event = ask(client, time_max, |options, queue| {
        // SAFETY: one resource as said, alive; the call copies it.
        unsafe { sys::rd_kafka_IncrementalAlterConfigs(client, resources.as_mut_ptr(), 1, options, queue) }
    })?;
    let mut count = 0;
    // SAFETY: the event answers an IncrementalAlterConfigs; entries live as long as it.
    unsafe {
        let result = sys::rd_kafka_event_IncrementalAlterConfigs_result(event.pointer);
        let entries = if result.is_null() {
            ptr::null_mut()
        } else {
            sys::rd_kafka_IncrementalAlterConfigs_result_resources(result, &raw mut count)
        };
        (0..count).try_for_each(|index| check(sys::rd_kafka_ConfigResource_error(*entries.add(index))))
    }
}

/// Where a group stands in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPosition {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: u32,
    /// Next offset to read.
    pub offset: u64,
    /// The group's text.
    pub metadata: String,
}

/// Where a group stands in those of the partitions in which it ever committed.
pub(super) fn group_positions(
    client: *mut RDKafka,
    group: &str,
    partitions: &[(String, u32)],
    time_max: Duration,
) -> Result<Vec<GroupPosition>, Code> {
    let group = CString::new(group).map_err(|_| Code::InvalidGroupId)?;
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for (topic, partition) in partitions {
        list.add_partition(topic, i32::try_from(*partition).unwrap_or(i32::MAX));
    }
    // SAFETY: text and list are alive; the call copies both.
    let request = unsafe { sys::rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), list.ptr()) };
    let request = Owned::new(request, sys::rd_kafka_ListConsumerGroupOffsets_destroy).ok_or(Code::Fail)?;
    let mut requests = [request.pointer];
    let event = ask(client, time_max, |options, queue| {
        // SAFETY: one request as said, alive; the call copies it.
        unsafe { sys::rd_kafka_ListConsumerGroupOffsets(client, requests.as_mut_ptr(), 1, options, queue) }
    })?;
    let mut count = 0;
    // SAFETY: the event answers a ListConsumerGroupOffsets; what it holds lives as long as it and is copied here.
    unsafe {
        let result = sys::rd_kafka_event_ListConsumerGroupOffsets_result(event.pointer);
        if result.is_null() {
            return Err(Code::Fail);
        }
        let groups = sys::rd_kafka_ListConsumerGroupOffsets_result_groups(result, &raw mut count);
        if count == 0 {
            return Err(Code::Fail);
        }
        let answered = *groups;
        check(sys::rd_kafka_error_code(sys::rd_kafka_group_result_error(answered)))?;
        positions(sys::rd_kafka_group_result_partitions(answered))
    }
}

/// # Safety
/// `list` must be alive, or null.
unsafe fn positions(list: *const sys::rd_kafka_topic_partition_list_t) -> Result<Vec<GroupPosition>, Code> {
    if list.is_null() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    // SAFETY: the list has `cnt` entries, whose texts end with a zero; all is copied.
    unsafe {
        for index in 0..usize::try_from((*list).cnt).unwrap_or(0) {
            let entry = &*(*list).elems.add(index);
            check(entry.err)?;
            let (Ok(offset), Ok(partition)) = (u64::try_from(entry.offset), u32::try_from(entry.partition))
            else {
                // A negative offset: never committed.
                continue;
            };
            let bytes = if entry.metadata.is_null() {
                &[]
            } else {
                std::slice::from_raw_parts(entry.metadata.cast::<u8>(), entry.metadata_size)
            };
            found.push(GroupPosition {
                topic: CStr::from_ptr(entry.topic).to_string_lossy().into_owned(),
                partition,
                offset,
                metadata: String::from_utf8_lossy(bytes).into_owned(),
            });
        }
    }
    Ok(found)
}
