//! A run's participants and what is done to them: the plan that a seed decides, the processes, and the schedule of
//! kills, pauses, stops, lost disks, outages and jumping clocks.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use call_legs::clock::Clock;
use call_legs::connector::{Order, OrderError, OrderRequest};
use call_legs::core::dedupe::Revisions;
use call_legs::core::journal::{Delivery, Nonce};
use call_legs::core::planner::Sweep;
use call_legs::core::poll_pace::INTERVAL_MAX;
use call_legs::core::time::UtcMillis;
use call_legs::core::watermark::Delays;
use call_legs::sink::Destination;
use chrono_tz::Tz;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Mood, Setting, SimSource};
use crate::broker::{Broker, Flavor, Happened};
use crate::cluster::{Kafka, SimCluster, Weather};
use crate::disk::{Disk, SimView, nonce};
use crate::life::{Life, WallClock};
use crate::seed::{Dice, Run, lock, sleep};

/// What a seed decides beforehand.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The units, each a PBX.
    pub(crate) units: Vec<String>,
    /// Partitions of the legs' topic.
    pub(crate) partitions: i32,
    /// How many processes there are.
    pub(crate) processes: usize,
    /// What is wanted.
    pub(crate) delivery: Delivery,
    /// What the cluster can do.
    pub(crate) flavor: Flavor,
    /// Settle, overlap and horizon.
    pub(crate) delays: Delays,
    /// What becomes of changed legs.
    pub(crate) revisions: Revisions,
    /// From poll to poll, at most.
    pub(crate) interval: Duration,
    /// Where the budget of requests decides how often units are polled: how many a minute it has.
    pub(crate) poll_budget: Option<u32>,
    /// The longest window.
    pub(crate) window_max: Duration,
    /// How many rows a window has at most that is read whole.
    pub(crate) window_rows: u64,
    /// Each unit has so many times fewer legs than the one before.
    pub(crate) sparser: u32,
    /// The owner writes something at least this often.
    pub(crate) beat: Duration,
    /// Slower re-reads.
    pub(crate) sweeps: Vec<Sweep>,
    /// How far clocks may be apart.
    pub(crate) clock_tolerance: Duration,
    /// Whether clocks jump at all.
    pub(crate) has_clock_jumps: bool,
    /// How long before the first start reading begins.
    pub(crate) start_ago: Duration,
    /// The zone of the query's bounds.
    pub(crate) zone: Tz,
    /// The network to the brokers.
    pub(crate) weather: Weather,
    /// How often a row is so broken that nobody finds its end.
    pub(crate) endless: f64,
    /// How many steps the schedule has.
    pub(crate) steps: u32,
    /// After how many of them the brokers take what they found invalid before; after all of them at the latest.
    pub(crate) mended_after: u32,
}

impl Plan {
    /// The plan of a seed, in exactly-once mode on a true Kafka.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        let second = Duration::from_secs(1);
        let overlap = second * dice.between(120, 600) as u32;
        let units = dice.between(1, 4);
        let window_max_s = *dice.pick(&[3_600, 100_000]);
        // A third of the runs is quiet but for kills, so that each kind of trouble is also seen alone.
        let rates: &[f64] = if dice.chance(0.33) { &[0.0] } else { &[0.0, 0.002, 0.01, 0.03] };
        let mut rate = || *dice.pick(rates);
        let (request_lost, answer_lost, late, slow, unavailable) = (rate(), rate(), rate(), rate(), rate());
        Self {
            units: (0..units).map(|number| format!("pbx{number}")).collect(),
            partitions: dice.between(1, 4) as i32,
            processes: if dice.chance(0.5) { 2 } else { 1 },
            delivery: Delivery::ExactlyOnce,
            flavor: Flavor::Kafka,
            delays: Delays {
                settle: second * dice.between(5, 60) as u32,
                overlap,
                // Sometimes whole hours are remembered.
                horizon: overlap * if dice.chance(0.2) { 30 } else { dice.between(1, 4) as u32 },
            },
            revisions: *dice.pick(&[Revisions::Ignore, Revisions::Publish]),
            interval: second * dice.between(10, 60) as u32,
            poll_budget: None,
            window_max: second * dice.between(300, window_max_s) as u32,
            window_rows: *dice.pick(&[5_000, 100, 40]),
            sparser: *dice.pick(&[1, 1, 10]),
            beat: second * 10,
            sweeps: (0..dice.between(0, 3))
                .map(|rung| Sweep {
                    every: second * dice.between(60, 600) as u32,
                    // Never further than the horizon, which is an overlap or more.
                    lookback: overlap / 2 * (rung as u32 + 1),
                })
                .collect(),
            clock_tolerance: second * 30,
            has_clock_jumps: dice.chance(0.3),
            start_ago: second * dice.between(0, 1800) as u32,
            zone: *dice.pick(&[chrono_tz::UTC, chrono_tz::America::Denver, chrono_tz::Asia::Kathmandu]),
            weather: Weather {
                request_lost,
                answer_lost,
                late,
                slow,
                unavailable,
                doubt_noticed: *dice.pick(&[0.0, 0.5, 1.0]),
            },
            endless: *dice.pick(&[0.0, 0.0, 0.003]),
            steps: dice.between(10, 40) as u32,
            mended_after: dice.between(0, 60) as u32,
        }
        .with_poll_budget()
    }

    /// In a quarter of the runs the budget of requests decides how often units are polled.
    fn with_poll_budget(mut self) -> Self {
        let drawn = self.interval.as_secs() as usize;
        if drawn.is_multiple_of(4) {
            (self.interval, self.poll_budget) = (INTERVAL_MAX, Some([6, 60, 600][drawn / 4 % 3]));
        }
        self
    }
}

/// What a process is given to work with.
pub(crate) struct Parts {
    /// The API.
    pub(crate) source: Arc<SimSource>,
    /// The brokers.
    pub(crate) cluster: Arc<SimCluster>,
    /// The view.
    pub(crate) view: Arc<SimView>,
    /// The clock, the dice and the nonces.
    pub(crate) clock: Arc<SimClock>,
    /// The id in the state directory.
    pub(crate) instance: Nonce,
    /// This incarnation's own number.
    pub(crate) process: Nonce,
    /// Which process it is.
    pub(crate) number: usize,
    /// The plan.
    pub(crate) plan: Plan,
    /// Told to stop.
    pub(crate) stop: CancellationToken,
    /// What an operator asks for.
    pub(crate) orders: mpsc::Receiver<OrderRequest>,
}

/// What a process runs.
pub(crate) type Program = Arc<dyn Fn(Parts) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// A process's wall clock, and its randomness.
pub(crate) struct SimClock {
    run: Arc<Run>,
    life: Arc<Life>,
}

impl Clock for SimClock {
    fn now(&self) -> UtcMillis {
        self.life.now()
    }

    fn dice(&self) -> f64 {
        self.run.throw(Dice::unit)
    }

    fn nonce(&self) -> [u8; 16] {
        nonce(&self.run)
    }
}

struct Running {
    life: Arc<Life>,
    stop: CancellationToken,
    orders: mpsc::Sender<OrderRequest>,
    task: JoinHandle<()>,
    ended: Arc<Mutex<Option<Result<(), String>>>>,
}

/// A process: its disk and its clock outlive its incarnations.
pub(crate) struct Process {
    /// The state directory.
    pub(crate) disk: Arc<Disk>,
    /// The wall clock.
    pub(crate) wall: Arc<WallClock>,
    running: Option<Running>,
}

/// Everything of a run.
pub(crate) struct World {
    /// Dice, true time, trace.
    pub(crate) run: Arc<Run>,
    /// What the seed decided.
    pub(crate) plan: Plan,
    /// The brokers.
    pub(crate) kafka: Arc<Kafka>,
    /// The API.
    pub(crate) api: Arc<Api>,
    /// The processes.
    pub(crate) processes: Vec<Process>,
    /// Incarnations that ended of themselves with an error, which none should.
    pub(crate) failures: Vec<String>,
    /// Orders that an owner has carried out or refused.
    pub(crate) orders: u32,
    /// Ends of incarnations by anything but a wish to stop, which the checks of the feed need.
    pub(crate) lives: u32,
    program: Program,
}

/// How long the API has legs for: longer than any schedule.
const LEGS_FOR: Duration = Duration::from_secs(24 * 3600);

impl World {
    /// A world of this plan; nothing runs yet.
    pub(crate) fn new(run: Arc<Run>, plan: Plan, program: Program) -> Self {
        run.note(format_args!("plan: {plan:?}"));
        let kafka = Kafka::new(Arc::clone(&run), Broker::new(plan.flavor, plan.partitions, 2), plan.weather);
        let rates: &[f64] = if run.throw(|dice| dice.chance(0.33)) { &[0.0] } else { &[0.0, 0.01, 0.05] };
        let setting = Setting {
            units: plan.units.clone(),
            before: plan.start_ago + Duration::from_secs(1800),
            after: LEGS_FOR,
            between_legs: Duration::from_secs(run.throw(|dice| dice.between(20, 120).unsigned_abs())),
            overlap: plan.delays.overlap,
            sparser: plan.sparser,
            zone: plan.zone,
            unreachable: run.throw(|dice| *dice.pick(rates)),
            rate_limited: run.throw(|dice| *dice.pick(rates)),
            cursor_refused: run.throw(|dice| *dice.pick(rates)),
            odd_meta: run.throw(|dice| *dice.pick(rates)),
            endless: plan.endless,
        };
        let api = Api::new(Arc::clone(&run), setting);
        let processes = (0..plan.processes)
            .map(|_| Process { disk: Disk::new(Arc::clone(&run)), wall: Arc::default(), running: None })
            .collect();
        Self { run, plan, kafka, api, processes, failures: Vec::new(), orders: 0, lives: 0, program }
    }

    /// Starts a process, to be killed at its `dies_at`th crossing.
    pub(crate) fn start(&mut self, number: usize, dies_at: Option<u64>) {
        self.reap(number);
        let Self { run, kafka, api, plan, program, .. } = self;
        let process = &mut self.processes[number];
        if process.running.is_some() {
            return;
        }
        self.lives += 1;
        let wall = Arc::clone(&process.wall);
        let life = Arc::new(Life::new(Arc::clone(run), self.lives, wall, dies_at));
        run.note(format_args!("process {number} starts life {}, to die at {dies_at:?}", life.number));
        let stop = CancellationToken::new();
        let (orders, ordered) = mpsc::channel(4);
        let parts = Parts {
            source: Arc::new(api.seen_by(&life)),
            cluster: Arc::new(kafka.seen_by(&life)),
            view: Arc::new(process.disk.seen_by(&life)),
            clock: Arc::new(SimClock { run: Arc::clone(run), life: Arc::clone(&life) }),
            instance: process.disk.instance(),
            process: Nonce(nonce(run)),
            number,
            plan: plan.clone(),
            stop: stop.clone(),
            orders: ordered,
        };
        let ended = Arc::new(Mutex::new(None));
        let program = program(parts);
        let task = tokio::spawn({
            let (life, ended, run) = (Arc::clone(&life), Arc::clone(&ended), Arc::clone(run));
            async move {
                tokio::select! {
                    biased;
                    () = life.died() => {}
                    result = program => {
                        run.note(format_args!("life {} ends by itself: {result:?}", life.number));
                        *lock(&ended) = Some(result);
                    }
                }
            }
        });
        process.running = Some(Running { life, stop, orders, task, ended });
    }

    /// Takes note of a process that has ended.
    fn reap(&mut self, number: usize) {
        let Some(running) = &self.processes[number].running else { return };
        let ended = lock(&running.ended).take();
        match ended {
            Some(Ok(())) => self.processes[number].running = None,
            Some(Err(error)) => {
                self.failures.push(format!("life {} ended: {error}", running.life.number));
                self.processes[number].running = None;
            }
            None if running.task.is_finished() => {
                if !running.life.is_dead() {
                    self.failures.push(format!("life {} panicked", running.life.number));
                }
                self.processes[number].running = None;
            }
            None => {}
        }
    }

    /// Takes note of every process that has ended.
    pub(crate) fn reap_all(&mut self) {
        (0..self.processes.len()).for_each(|number| self.reap(number));
    }

    /// Whether a process runs.
    pub(crate) fn is_running(&mut self, number: usize) -> bool {
        self.reap(number);
        self.processes[number].running.is_some()
    }

    /// The incarnation of a process that runs.
    pub(crate) fn life(&self, number: usize) -> Option<&Arc<Life>> {
        self.processes[number].running.as_ref().map(|running| &running.life)
    }

    /// Kills a process, as by kill -9.
    pub(crate) async fn kill(&mut self, number: usize) {
        let Some(running) = self.processes[number].running.take() else { return };
        self.run.note(format_args!("life {} is killed", running.life.number));
        running.life.kill();
        // Its last words, if it has ended of itself already.
        let _ = running.task.await;
        let ended = lock(&running.ended).take();
        if let Some(Err(error)) = ended {
            self.failures.push(format!("life {} ended: {error}", running.life.number));
        }
    }

    /// Asks a process to stop and waits for it, for as long as anyone would; then kills it.
    pub(crate) async fn stop(&mut self, number: usize, patience: Duration) -> bool {
        let Some(running) = &mut self.processes[number].running else { return true };
        self.run.note(format_args!("life {} is asked to stop", running.life.number));
        running.stop.cancel();
        let is_stopped = tokio::time::timeout(patience, &mut running.task).await.is_ok();
        if is_stopped {
            self.reap(number);
        } else {
            self.kill(number).await;
        }
        is_stopped
    }

    /// Stops or resumes a process without telling it.
    pub(crate) fn pause(&self, number: usize, is_paused: bool) {
        if let Some(running) = &self.processes[number].running {
            self.run.note(format_args!(
                "life {} {}",
                running.life.number,
                if is_paused { "is paused" } else { "goes on" }
            ));
            running.life.pause(is_paused);
            self.kafka.broker().note(Happened::Paused(running.life.number));
        }
    }

    /// One step of the schedule.
    pub(crate) async fn step(&mut self) {
        let number = self.run.throw(|dice| dice.between(0, self.processes.len() as i64) as usize);
        let what = self.run.throw(|dice| dice.between(0, 100));
        match what {
            0..25 => self.wait(5_000, 300_000).await,
            25..30 => self.order().await,
            30..45 => {
                self.kill(number).await;
                self.revive(number).await;
            }
            45..60 => {
                self.kill(number).await;
                let dies_at = self.run.throw(|dice| {
                    let most = *dice.pick(&[30, 120, 600]);
                    dice.between(1, most).unsigned_abs()
                });
                self.start(number, Some(dies_at));
                self.wait(20_000, 200_000).await;
                self.revive(number).await;
            }
            60..66 => {
                self.pause(number, true);
                self.wait(5_000, 120_000).await;
                self.pause(number, false);
                self.wait(1_000, 20_000).await;
            }
            66..72 => {
                self.kafka.set_up(false);
                self.wait(1_000, 90_000).await;
                self.kafka.set_up(true);
                self.wait(1_000, 60_000).await;
            }
            72..77 => {
                self.api.set_mood(Mood::Down);
                self.wait(1_000, 600_000).await;
                self.api.set_mood(Mood::Well);
            }
            77..80 => {
                let mood = self
                    .run
                    .throw(|dice| *dice.pick(&[Mood::Refusing, Mood::Limiting, Mood::Babbling, Mood::Repeating]));
                self.api.set_mood(mood);
                self.wait(1_000, 600_000).await;
                self.api.set_mood(Mood::Well);
            }
            80..84 => self.jump(number).await,
            84..88 => {
                self.stop(number, Duration::from_secs(60)).await;
                self.wait(0, 60_000).await;
                self.revive(number).await;
            }
            88..90 => self.processes[number].disk.break_down(),
            90..93 => self.processes[number].disk.back_up(),
            93..98 => self.housekeeping(),
            _ => {
                for number in 0..self.processes.len() {
                    self.kill(number).await;
                }
                self.wait(600_000, 3 * 3_600_000).await;
                self.revive(number).await;
            }
        }
        for number in 0..self.processes.len() {
            // Nothing stays down for good.
            if !self.is_running(number) && self.run.throw(|dice| dice.chance(0.5)) {
                self.start(number, None);
            }
        }
    }

    /// An operator asks for something, of every process in turn until one does it, and gives up after a while.
    pub(crate) async fn order(&mut self) {
        let kind = self.run.throw(Dice::unit);
        let unit = self.run.throw(|dice| dice.pick(&self.plan.units).clone());
        let order = if kind < 0.08 {
            if kind < 0.05 { Order::Verify } else { Order::Rebuild }
        } else if kind < 0.4 {
            let (confirmed, forced) = self.run.throw(|dice| (dice.chance(0.9), dice.chance(0.1)));
            Order::Replay { code: None, confirmed, forced }
        } else if kind < 0.63 && self.plan.delivery == Delivery::ExactlyOnce {
            let back = self.run.throw(|dice| dice.millis(0, 1_200_000));
            Order::Rewind { unit, to: self.run.now().minus(back), confirmed: true }
        } else {
            // Around the beginning of the first process's reading: legs are there from half an hour before it on.
            let begun = self.run.now().minus(self.run.elapsed());
            let earliest = begun.minus(self.plan.start_ago + Duration::from_secs(1_800));
            let (from, length) = self.run.throw(|dice| (dice.millis(0, 2_400_000), dice.millis(1_000, 2_400_000)));
            let from = earliest.plus(from);
            Order::Backfill { unit: Some(unit), from, to: from.plus(length), confirmed: true, forced: false }
        };
        let is_verified = order == Order::Verify;
        if let Some(Ok(said)) = self.give(order, Duration::from_secs(30)).await
            && is_verified
            && said.contains("DIFFERS")
        {
            self.failures.push(said);
        }
    }

    /// Gives an order to every process in turn until an owner has answered it, which is given back.
    async fn give(&mut self, order: Order, patience: Duration) -> Option<Result<String, OrderError>> {
        for attempt in 0..10 {
            let number = attempt % self.processes.len();
            let Some(running) = &self.processes[number].running else { continue };
            self.run.note(format_args!("life {} is asked for {order:?}", running.life.number));
            let (reply, answer) = oneshot::channel();
            let request = OrderRequest { order: order.clone(), id: None, deadline: None, reply };
            if running.orders.try_send(request).is_err() {
                // Its queue is full: so many orders came while it waited for the brokers.
                sleep(Duration::from_secs(1)).await;
                continue;
            }
            // Whoever is killed or paused does not answer.
            let answer = timeout(patience, answer).await;
            self.run.note(format_args!("the answer is {answer:?}"));
            // An owner's refusal, such as of what was read already, is an answer, too.
            let is_an_owners = match &answer {
                Ok(Ok(Ok(_))) => true,
                Ok(Ok(Err(OrderError::Refused(why)))) => !why.contains("stands by") && !why.contains("does not own"),
                _ => false,
            };
            if is_an_owners {
                self.orders += 1;
                return answer.ok().and_then(Result::ok);
            }
            sleep(Duration::from_secs(5)).await;
        }
        None
    }

    /// From now on the brokers take what they found invalid.
    pub(crate) fn mend(&self) {
        self.run.note(format_args!("the brokers are mended"));
        self.kafka.broker().is_picky = false;
    }

    /// Has every dead letter replayed; gives what came of it.
    pub(crate) async fn replay(&mut self) -> Option<Result<String, OrderError>> {
        self.give(Order::Replay { code: None, confirmed: true, forced: false }, Duration::from_secs(600)).await
    }

    async fn wait(&self, low_ms: i64, high_ms: i64) {
        let time = self.run.throw(|dice| dice.millis(low_ms, high_ms));
        sleep(time).await;
    }

    /// Starts a process that is down, perhaps after some time, perhaps with a lost or an old disk.
    async fn revive(&mut self, number: usize) {
        if self.is_running(number) {
            return;
        }
        self.wait(0, 30_000).await;
        let disk = &self.processes[number].disk;
        match self.run.throw(|dice| dice.between(0, 10)) {
            0 | 1 => {
                self.run.note(format_args!("process {number} loses its store"));
                disk.delete(false);
            }
            2 => {
                self.run.note(format_args!("process {number} loses its state directory"));
                disk.delete(true);
            }
            3 | 4 => {
                self.run.note(format_args!("process {number} gets an older store"));
                disk.restore();
            }
            _ => {}
        }
        self.start(number, None);
    }

    async fn jump(&self, number: usize) {
        if !self.plan.has_clock_jumps {
            return;
        }
        let by_ms =
            self.run.throw(|dice| *dice.pick(&[-3_600_000, -60_000, -5_000, 0, 0, 5_000, 20_000, 60_000, 3_600_000]));
        if self.run.throw(|dice| dice.chance(0.7)) {
            self.api.set_ahead_ms(0);
            self.run.note(format_args!("process {number}'s clock is {by_ms} ms ahead"));
            self.processes[number].wall.set_ahead_ms(by_ms);
        } else {
            // Two clocks that are wrong alike could not be told from right ones by anyone.
            self.processes.iter().for_each(|process| process.wall.set_ahead_ms(0));
            self.api.set_ahead_ms(by_ms);
        }
        self.wait(5_000, 300_000).await;
    }

    /// What brokers do in the background.
    fn housekeeping(&self) {
        let mut broker = self.kafka.broker();
        let day = Duration::from_secs(24 * 3600);
        let now = self.run.now();
        for topic in [Destination::Journal, Destination::Status] {
            let ends = broker.ends(topic);
            for end in ends {
                let upto = self.run.throw(|dice| dice.between(0, end.stable + 1));
                broker.compact((topic, end.partition), upto, now.minus(day));
            }
        }
    }

    /// Ends all trouble and lets everyone work.
    pub(crate) fn heal(&mut self) {
        self.run.heal(true);
        if !self.kafka.is_up() {
            self.kafka.set_up(true);
        }
        self.api.set_mood(Mood::Well);
        self.api.set_ahead_ms(0);
        for number in 0..self.processes.len() {
            self.processes[number].wall.set_ahead_ms(0);
            self.pause(number, false);
            if let Some(life) = self.life(number) {
                life.spare();
            }
            if !self.is_running(number) {
                self.start(number, None);
            }
        }
    }
}
