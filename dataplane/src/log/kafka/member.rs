//! The thread of one member of a group: requests in, what it has to tell out. The library is polled only while the
//! caller waits in `next`, so nothing is taken away from a caller who is at work, unless the whole group gave it up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Message, TopicPartitionList};
use tokio::sync::oneshot;

use super::error::{is_lost_membership, is_outdated_generation, unavailable, unavailable_code};
use super::group::{Group, Told};
use super::reader::{ANSWER_MAX, SETTLE_MAX, number, offset, record, take_within, watermarks};
use crate::log::{Commit, LogError, LogRecord, Polled, ReadLimits, TopicPartition};
use crate::metrics::Metrics;

/// Longest wait for the group's first answer: other members may have to finish a batch first.
const JOIN_MAX: Duration = Duration::from_secs(60);
/// Most bytes taken out of the library before they are handed out; the rest waits there.
const BUFFER_BYTES_MAX: usize = 1 << 20;
/// Longest wait without a look at what else is asked for.
const SLICE: Duration = Duration::from_millis(50);
/// Largest metadata the brokers keep beside a position.
pub(super) const METADATA_BYTES_MAX: usize = 4096;
/// Pause before a position is kept again that met the group while it made up its mind.
const COMMIT_AGAIN: Duration = Duration::from_millis(20);
/// Pause before a partition that is not yet ready is moved again.
const SEEK_AGAIN: Duration = Duration::from_millis(5);

/// What the member is asked for.
pub(super) enum Request {
    Next(ReadLimits, oneshot::Sender<()>),
    Seek(TopicPartition, u64, oneshot::Sender<Result<(), LogError>>),
    Commit(Vec<Commit>, oneshot::Sender<Result<(), LogError>>),
}

/// Results of `next` that wait to be fetched: one whose caller was cancelled is fetched by the following call.
#[derive(Default)]
pub(super) struct Results(Mutex<VecDeque<Result<Polled, LogError>>>);

impl Results {
    /// The oldest that says anything: a cancelled caller's "nothing came" is no answer to a later call.
    pub(super) fn pop(&self) -> Option<Result<Polled, LogError>> {
        let mut results = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match results.pop_front() {
                Some(Ok(Polled::Idle)) => {}
                other => return other,
            }
        }
    }

    fn push(&self, result: Result<Polled, LogError>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_back(result);
    }

    /// Records of a partition that were not fetched are out of date.
    fn forget(&self, of: &TopicPartition) {
        let is_other =
            |result: &Result<Polled, LogError>| !matches!(result, Ok(Polled::Records(at, _)) if at == of);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(is_other);
    }
}

/// One partition that is ours.
struct Buffer {
    ahead: VecDeque<LogRecord>,
    /// Offset behind the last record taken out of the library.
    next: u64,
}

/// What the thread works with.
pub(super) struct Machine {
    pub(super) name: Arc<str>,
    pub(super) consumer: Arc<BaseConsumer<Group>>,
    pub(super) results: Arc<Results>,
    pub(super) is_closed: Arc<AtomicBool>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) state: State,
}

/// What changes while it works.
#[derive(Default)]
pub(super) struct State {
    buffers: BTreeMap<TopicPartition, Buffer>,
    buffered_bytes: usize,
    /// Served last, so that no partition starves another.
    cursor: Option<TopicPartition>,
    has_joined: bool,
    /// A request that came while another was served.
    pending: Option<Request>,
}

impl Machine {
    /// Serves until nobody asks any more; then the member leaves its group.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        while let Some(request) = self.state.pending.take().or_else(|| requests.recv().ok()) {
            match request {
                Request::Next(limits, done) => {
                    let next = self.next(&limits, requests);
                    self.results.push(next);
                    // A caller that was cancelled finds it at its next call.
                    let _ = done.send(());
                }
                Request::Seek(of, to, done) => drop(done.send(self.seek(&of, to))),
                Request::Commit(positions, done) => drop(done.send(self.commit(&positions))),
            }
        }
    }

    fn next(&mut self, limits: &ReadLimits, requests: &Receiver<Request>) -> Result<Polled, LogError> {
        let started = Instant::now();
        loop {
            if self.is_closed.load(Ordering::Acquire) {
                return Err(LogError::Closed);
            }
            // Before and after looking into the library: records never come before their partition was told.
            if let Some(told) = self.told()? {
                return Ok(told);
            }
            self.gather()?;
            if let Some(told) = self.told()? {
                return Ok(told);
            }
            if let Some(polled) = self.hand_out(limits) {
                return Ok(polled);
            }
            let wait_max = if self.state.has_joined { limits.wait_max } else { JOIN_MAX };
            let left = wait_max.saturating_sub(started.elapsed());
            if left.is_zero() || self.is_asked_for_more(requests) {
                return if self.state.has_joined {
                    Ok(Polled::Idle)
                } else {
                    Err(unavailable_code("join the group", Code::OperationTimedOut))
                };
            }
            self.poll(left.min(SLICE))?;
        }
    }

    /// Whether the caller gave up waiting and wants something else by now.
    /// Joining goes on all the same, unless there is no caller any more.
    fn is_asked_for_more(&mut self, requests: &Receiver<Request>) -> bool {
        if self.state.pending.is_none() {
            match requests.try_recv() {
                Ok(request) => self.state.pending = Some(request),
                Err(TryRecvError::Disconnected) => return true,
                Err(TryRecvError::Empty) => {}
            }
        }
        self.state.has_joined && self.state.pending.is_some()
    }

    /// Takes out of the library what is at hand; polls at least once, which keeps the membership alive.
    fn gather(&mut self) -> Result<(), LogError> {
        while self.poll(Duration::ZERO)? && self.state.buffered_bytes < BUFFER_BYTES_MAX {}
        Ok(())
    }

    fn told(&mut self) -> Result<Option<Polled>, LogError> {
        while let Some(told) = self.consumer.context().pop() {
            match told {
                Told::Assigned(starts) => {
                    let is_first = !std::mem::replace(&mut self.state.has_joined, true);
                    let mut assigned = Vec::with_capacity(starts.len());
                    for start in starts {
                        let buffer = Buffer { ahead: VecDeque::new(), next: start.next };
                        self.state.buffers.insert(start.assigned.partition.clone(), buffer);
                        assigned.push(start.assigned);
                    }
                    if is_first || !assigned.is_empty() {
                        return Ok(Some(Polled::Assigned(assigned)));
                    }
                }
                Told::Revoked(partitions) => {
                    partitions.iter().for_each(|of| self.forget(of));
                    return Ok(Some(Polled::Revoked(partitions)));
                }
                Told::Failed(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn forget(&mut self, of: &TopicPartition) {
        if let Some(buffer) = self.state.buffers.remove(of) {
            self.state.buffered_bytes -= buffer.ahead.iter().map(bytes).sum::<usize>();
        }
        self.results.forget(of);
    }

    /// Records of the partition whose turn it is.
    fn hand_out(&mut self, limits: &ReadLimits) -> Option<Polled> {
        let has_records = |(_, buffer): &(&TopicPartition, &Buffer)| !buffer.ahead.is_empty();
        let behind =
            |(of, _): &(&TopicPartition, &Buffer)| self.state.cursor.as_ref().is_none_or(|last| *of > last);
        let of = self.state.buffers.iter().filter(behind).find(has_records);
        let of = of.or_else(|| self.state.buffers.iter().find(has_records))?.0.clone();
        let records = take_within(&mut self.state.buffers.get_mut(&of)?.ahead, limits);
        self.state.buffered_bytes -= records.iter().map(bytes).sum::<usize>();
        self.state.cursor = Some(of.clone());
        Some(Polled::Records(of, records))
    }

    /// One look into the library; true if a record came.
    fn poll(&mut self, wait_max: Duration) -> Result<bool, LogError> {
        let error = match self.consumer.poll(wait_max) {
            None => return Ok(false),
            Some(Ok(message)) => {
                let partition = u32::try_from(message.partition()).unwrap_or(u32::MAX);
                let topic = message.topic();
                let of = TopicPartition { topic: Arc::from(topic), partition };
                let Some(buffer) = self.state.buffers.get_mut(&of) else {
                    // Left over from a partition that was taken away; one that is ours must never lose a record.
                    return if self.consumer.context().held.has_all(std::iter::once(&of)) {
                        Err(unavailable_code("give a record to its partition", Code::State))
                    } else {
                        Ok(true)
                    };
                };
                let record = record(&message);
                self.state.buffered_bytes += bytes(&record);
                buffer.next = record.offset + 1;
                buffer.ahead.push_back(record);
                return Ok(true);
            }
            Some(Err(error)) => error,
        };
        self.judge(error).map(|()| false)
    }

    /// What an error between records means; `Ok` if the library goes on by itself.
    fn judge(&mut self, error: KafkaError) -> Result<(), LogError> {
        match (&error, error.rdkafka_error_code()) {
            (KafkaError::MessageConsumptionFatal(_), _) | (_, Some(Code::FencedInstanceId)) => {
                tracing::warn!(group = &*self.name, error = &error as &dyn std::error::Error, "fenced");
                Err(LogError::Fenced { id: self.name.to_string() })
            }
            (_, Some(Code::AutoOffsetReset | Code::OffsetOutOfRange)) => self.catch_up_with_retention(),
            (_, Some(Code::PollExceeded)) => {
                tracing::warn!(
                    group = &*self.name,
                    "a batch took too long; the member joins its group again"
                );
                Ok(())
            }
            (_, Some(code)) if millrace_provision::kafka::is_unreachable(code) => Ok(()),
            _ => Err(unavailable("read records", error)),
        }
    }

    /// The library does not say which partition stands outside of what the brokers have.
    fn catch_up_with_retention(&mut self) -> Result<(), LogError> {
        for of in self.consumer.context().held.all() {
            let Some(next) = self.state.buffers.get(&of).map(|buffer| buffer.next) else { continue };
            let ends = watermarks(&self.consumer, &of)?;
            if next < ends.low {
                tracing::warn!(partition = %of, from = next, to = ends.low, "retention removed records unread");
                let labels = [&*self.name, &*of.topic];
                self.metrics.log_unread_removed_records.with_label_values(&labels).inc_by(ends.low - next);
                self.move_to(&of, ends.low)?;
            } else if next > ends.high {
                return Err(unavailable_code("read behind the end of a partition", Code::OffsetOutOfRange));
            }
        }
        Ok(())
    }

    fn seek(&mut self, of: &TopicPartition, to: u64) -> Result<(), LogError> {
        self.check_open()?;
        if !self.consumer.context().held.has_all(std::iter::once(of)) {
            return Err(LogError::UnknownPartition { partition: of.clone() });
        }
        self.move_to(of, to)
    }

    fn move_to(&mut self, of: &TopicPartition, to: u64) -> Result<(), LogError> {
        let failed = |source| unavailable("move to an offset", source);
        let deadline = Instant::now() + ANSWER_MAX;
        loop {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&of.topic, number(of), offset(to)).map_err(failed)?;
            let moved = self.consumer.seek_partitions(list, ANSWER_MAX).map_err(failed)?;
            let refused = moved.elements().iter().find_map(|element| element.error().err());
            match refused {
                None => break,
                // The fetcher of a partition just assigned is still starting.
                Some(error) if Instant::now() >= deadline => return Err(failed(error)),
                Some(_) => std::thread::sleep(SEEK_AGAIN),
            }
        }
        self.results.forget(of);
        if let Some(buffer) = self.state.buffers.get_mut(of) {
            self.state.buffered_bytes -= buffer.ahead.iter().map(bytes).sum::<usize>();
            buffer.ahead.clear();
            buffer.next = to;
        }
        Ok(())
    }

    fn commit(&mut self, positions: &[Commit]) -> Result<(), LogError> {
        self.check_open()?;
        let fenced = || LogError::Fenced { id: self.name.to_string() };
        if positions.is_empty() {
            return Ok(());
        }
        check_metadata(positions)?;
        if !self.consumer.context().held.has_all(positions.iter().map(|position| &position.of)) {
            return Err(fenced());
        }
        let list = list_of(positions)?;
        let deadline = Instant::now() + SETTLE_MAX;
        loop {
            let Err(source) = self.consumer.commit(&list, CommitMode::Sync) else { return Ok(()) };
            let may_repeat = Instant::now() < deadline && !self.consumer.assignment_lost();
            match source.rdkafka_error_code() {
                Some(code) if is_outdated_generation(code) && may_repeat => std::thread::sleep(COMMIT_AGAIN),
                Some(code) if is_lost_membership(code) => return Err(fenced()),
                Some(code) if millrace_provision::kafka::is_unreachable(code) => {
                    return Err(LogError::UnknownOutcome);
                }
                _ => return Err(unavailable("keep a position", source)),
            }
        }
    }

    fn check_open(&self) -> Result<(), LogError> {
        if self.is_closed.load(Ordering::Acquire) { Err(LogError::Closed) } else { Ok(()) }
    }
}

/// Whether the brokers will keep the text beside the positions.
pub(super) fn check_metadata(positions: &[Commit]) -> Result<(), LogError> {
    match positions.iter().map(|position| position.committed.metadata.len()).max() {
        Some(bytes) if bytes > METADATA_BYTES_MAX => {
            Err(LogError::TooLarge { bytes, bytes_max: METADATA_BYTES_MAX })
        }
        _ => Ok(()),
    }
}

/// Positions as the library takes them. The last one of a partition counts.
pub(super) fn list_of(positions: &[Commit]) -> Result<TopicPartitionList, LogError> {
    let last: BTreeMap<&TopicPartition, &Commit> =
        positions.iter().map(|position| (&position.of, position)).collect();
    let mut list = TopicPartitionList::with_capacity(last.len());
    for Commit { of, committed } in last.into_values() {
        let mut element = list.add_partition(&of.topic, number(of));
        element
            .set_offset(offset(committed.offset))
            .map_err(|source| unavailable("name a position", source))?;
        element.set_metadata(&committed.metadata);
    }
    Ok(list)
}

fn bytes(record: &LogRecord) -> usize {
    record.key.len() + record.value.len()
}
