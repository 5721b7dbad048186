//! What is kept and forgotten, and that nothing else changes.

use proptest::prelude::*;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn pages_and_head_survive_reopening_and_a_wipe_leaves_nothing() {
    let (dir, mut model) = filled().await;
    let view = open(dir.path());
    model.check(&view).await.unwrap();
    let page = model.numbers("c", 100..400, 99);
    apply(&view, &model, vec![page]).await;
    model.check(&view).await.unwrap();
    view.wipe().await.unwrap();
    assert_eq!(view.load().await.unwrap(), None);
    assert_eq!(view.find(vec![key(1)]).await.unwrap(), [None]);
    assert!(all(&view).await.unwrap().is_empty() && databases(dir.path()).is_empty());
    let mut model = Model::new();
    let page = model.numbers("z", 0..10, 1);
    apply(&view, &model, vec![page]).await;
    drop(view);
    model.check(&open(dir.path())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_again_changes_nothing_whatever_came_between() {
    let (dir, mut model) = filled().await;
    let view = open(dir.path());
    let first = model.numbers("a", 0..50, 7);
    apply(&view, &model, vec![first.clone()]).await;
    let second = model.numbers("b", 0..50, 8);
    apply(&view, &model, vec![second.clone()]).await;
    apply(&view, &model, vec![first.clone()]).await;
    apply(&view, &model, vec![second.clone(), first.clone()]).await;
    apply(&view, &model, vec![]).await;
    model.check(&view).await.unwrap();
    let mut other = first;
    other.last = UtcMillis::new(1);
    let refused = view.apply(vec![other], model.ledger.head.clone()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Broken { .. }), "{refused}");
    assert!(matches!(view.find(vec![key(1)]).await, Err(StoreError::Broken { .. })), "until it is wiped");
    view.wipe().await.unwrap();
    assert_eq!(view.load().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_pages_of_one_number_are_both_kept() {
    let dir = tempfile::tempdir().unwrap();
    let view = open(dir.path());
    let mut model = Model::new();
    let mut pages = Vec::new();
    for writer in [1, 2] {
        let page = Page {
            seq: 1,
            writer: Some(Nonce([writer; 16])),
            legs: (0..60).map(|number| entry(number + u32::from(writer) * 1000, 1)).collect(),
            ..Model::new().numbers("a", 0..0, 0)
        };
        model.write(Record::Page(page.clone()));
        pages.push(page);
    }
    apply(&view, &model, pages.clone()).await;
    apply(&view, &model, pages).await;
    drop(view);
    let view = open(dir.path());
    assert_eq!(view.load().await.unwrap().unwrap(), model.ledger);
    let found = view.find(vec![key(1000), key(2059), key(0)]).await.unwrap();
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn keyed_fingerprints_come_back_as_such_beside_others() {
    let dir = tempfile::tempdir().unwrap();
    let view = open(dir.path());
    let mut model = Model::new();
    for round in 0..6_u32 {
        let numbers = round * 60..round * 60 + 60;
        let page = if round % 2 == 0 { model.numbers("a", numbers, 7) } else { model.keyed("a", numbers, 7) };
        apply(&view, &model, vec![page]).await;
        model.check(&view).await.unwrap();
    }
    assert!(!databases(dir.path()).is_empty(), "some are in a slice, and some are not");
    drop(view);
    model.check(&open(dir.path())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_page_of_another_writer_does_not_hide_what_is_newer() {
    let dir = tempfile::tempdir().unwrap();
    let view = open(dir.path());
    let mut model = Model::new();
    model.numbers("a", 0..0, 0);
    let mut newer = model.numbers("a", 0..100, 5);
    newer.writer = Some(Nonce([1; 16]));
    apply(&view, &model, vec![newer.clone()]).await;
    let filler = model.numbers("a", 200..300, 6);
    apply(&view, &model, vec![filler]).await;
    assert!(!databases(dir.path()).is_empty());
    let late = Page { seq: 1, writer: Some(Nonce([2; 16])), ..newer };
    apply(&view, &model, vec![late.clone()]).await;
    let mut view = view;
    for _ in 0..2 {
        let found = view.find(vec![key(7), late.dead[0]]).await.unwrap();
        assert!(found.iter().all(|found| found.as_ref().unwrap().seq == 2), "{found:?}");
        drop(view);
        view = open(dir.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slice_is_forgotten_with_its_last_page_and_a_database_with_its_last_slice() {
    let (dir, mut model) = filled().await;
    let oldest = records(open(dir.path()))[0];
    let view = open(dir.path());
    model.forget_below(oldest.newest);
    apply(&view, &model, vec![]).await;
    model.check(&view).await.unwrap();
    drop(view);
    assert_eq!(records(open(dir.path()))[0], oldest, "page {} is still needed", oldest.newest);
    let view = open(dir.path());
    model.forget_below(oldest.newest + 1);
    apply(&view, &model, vec![]).await;
    let pages = vec![model.numbers("a", 700..790, 1), model.numbers("a", 800..830, 1)];
    apply(&view, &model, pages).await;
    model.check(&view).await.unwrap();
    drop(view);
    let left = records(open(dir.path()));
    assert!(left[0].newest > oldest.newest);
    assert_eq!(trees(dir.path()), left.iter().map(|slice| slice.number).collect::<Vec<_>>());
    let view = open(dir.path());
    model.forget_below(model.ledger.head.last_seq + 1);
    apply(&view, &model, vec![]).await;
    assert!(databases(dir.path()).is_empty(), "all is forgotten");
    assert!(view.load().await.unwrap().unwrap().pages.is_empty());
    drop(view);
    let view = open(dir.path());
    model.check(&view).await.unwrap();
    let pages = vec![model.numbers("a", 800..910, 1), model.numbers("a", 910..920, 1)];
    apply(&view, &model, pages).await;
    model.check(&view).await.unwrap();
    assert_eq!(databases(dir.path()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_slice_in_memory_is_forgotten_an_older_one_with_newer_pages_is_still_asked() {
    let dir = tempfile::tempdir().unwrap();
    let view = open(dir.path());
    let mut model = Model::new();
    (0..4).for_each(|_| drop(model.numbers("a", 0..0, 0)));
    let newer = model.numbers("a", 200..300, 6);
    apply(&view, &model, vec![newer.clone()]).await;
    // Of another writer, and late.
    let legs = (300..400).map(|number| entry(number, 1)).collect();
    let late = Page { seq: 2, writer: Some(Nonce([2; 16])), legs, dead: Vec::new(), ..newer };
    apply(&view, &model, vec![late]).await;
    let newest = model.numbers("a", 400..500, 7);
    apply(&view, &model, vec![newest]).await;
    model.forget_below(3);
    apply(&view, &model, vec![]).await;
    let found = view.find(vec![key(250), key(350), key(450)]).await.unwrap();
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
}

/// Writes pages of 20 legs, of which the newest so many are kept.
async fn roll(view: &SledView, model: &mut Model, pages: std::ops::Range<u32>, kept: u32) {
    for number in pages {
        let page = model.numbers("a", number * 20..number * 20 + 20, 1);
        let below = Seq::from((number + 2).saturating_sub(kept));
        model.forget_below(below.max(model.ledger.head.oldest_needed_seq()));
        apply(view, model, vec![page]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_space_is_given_back_after_a_peak() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = Sizes { slack: 64 << 10, ..SMALL };
    let view = SledView::open_with(dir.path(), sizes, PATIENCE).unwrap();
    let mut model = Model::new();
    roll(&view, &mut model, 0..240, 240).await;
    model.check(&view).await.unwrap();
    assert_eq!(databases(dir.path()), [0]);
    let length = |database: u64| fs::metadata(dir.path().join(format!("store/slices-{database}/db"))).unwrap().len();
    let peak = length(0);
    roll(&view, &mut model, 240..270, 60).await;
    model.check(&view).await.unwrap();
    let databases = databases(dir.path());
    assert!(databases.len() == 1 && databases[0] > 0, "{databases:?}");
    assert!(length(databases[0]) < peak / 2, "{} of {peak}", length(databases[0]));
    drop(view);
    let view = SledView::open_with(dir.path(), sizes, PATIENCE).unwrap();
    model.check(&view).await.unwrap();
    let files = view.into_files();
    let entries = model.ledger.pages.values().map(|page| u64::from(page.entries)).sum::<u64>();
    let kept = &files.record.as_ref().unwrap().kept;
    assert_eq!((kept.entries, kept.pages), (entries, model.ledger.pages.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_is_written_anew_in_the_course_of_applies() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = Sizes { slack: 0, ..SMALL };
    let view = SledView::open_with(dir.path(), sizes, PATIENCE).unwrap();
    let mut model = Model::new();
    for number in 0..30 {
        let page = model.numbers("a", number * 20..number * 20 + 30, u64::from(number));
        apply(&view, &model, vec![page]).await;
    }
    model.check(&view).await.unwrap();
    drop(view);
    assert!(heads(dir.path())[0] > 2 && heads(dir.path()).len() == 1, "{:?}", heads(dir.path()));
    model.check(&open(dir.path())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_slice_is_in_memory_also_after_opening() {
    let (dir, model) = filled().await;
    let files = open(dir.path()).into_files();
    let newest = files.slices.all.last().unwrap().record;
    assert_eq!(files.before.len(), newest.entries as usize);
    for (key, known) in model.entries.iter().filter(|(_, known)| known.seq == newest.newest) {
        let (_, page) = files.before.get(key).unwrap();
        assert_eq!((page.seq, &*files.units[usize::from(page.unit)]), (known.seq, &*known.unit));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_head_only_what_has_changed_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let view = open(dir.path());
    let mut model = Model::new();
    apply(&view, &model, vec![]).await;
    model.forget_below(1);
    apply(&view, &model, vec![]).await;
    drop(view);
    let parts = |dir: &Path| {
        let db = sled::open(dir.join("store/head-0")).unwrap();
        let parts = b"UHDFN".iter().flat_map(|kind| db.scan_prefix([*kind])).map(Result::unwrap);
        parts.map(|(key, value)| (key.to_vec(), value.to_vec())).collect::<BTreeMap<_, _>>()
    };
    let before = parts(dir.path());
    let kinds: Vec<u8> = before.keys().map(|key| key[0]).collect();
    assert_eq!(kinds, *b"DFHU", "days, a backfill, hours, progress");
    let view = open(dir.path());
    let page = model.numbers("b", 0..10, 1);
    apply(&view, &model, vec![page]).await;
    drop(view);
    let changed: Vec<Vec<u8>> = parts(dir.path())
        .into_iter()
        .filter(|(key, value)| before.get(key) != Some(value))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(changed, [b"Hb".to_vec(), vec![b'N', 0, 0]]);
    model.check(&open(dir.path())).await.unwrap();
}

#[derive(Clone, Debug)]
enum Step {
    /// Pages with these first keys and lengths, applied together.
    Apply(Vec<(u32, u32)>),
    /// Pages of before, again.
    Again(usize),
    Forget(u64),
    Reopen,
    /// Slices written, head not.
    Crash(u32, u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let page = || (0..300u32, 0..90u32);
    let step = prop_oneof![
        6 => prop::collection::vec(page(), 0..3).prop_map(Step::Apply),
        1 => (0..40usize).prop_map(Step::Again),
        2 => (0..8u64).prop_map(Step::Forget),
        1 => Just(Step::Reopen),
        1 => page().prop_map(|(first, count)| Step::Crash(first, count)),
    ];
    prop::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_view_is_the_model(steps in steps(), slack in prop_oneof![Just(SMALL.slack), Just(0), Just(20_000)]) {
        // With little slack slices are moved, and the head is written anew, with nearly each apply.
        let open = |dir: &Path| SledView::open_with(dir, Sizes { slack, ..SMALL }, PATIENCE).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut view = open(dir.path());
            let mut model = Model::new();
            apply(&view, &model, vec![]).await;
            let mut pages: Vec<Page> = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                let unit = ["a", "b", "c"][number % 3];
                match step {
                    Step::Apply(new) => {
                        let new = new.into_iter().map(|(first, count)| model.numbers(unit, first..first + count, number as u64));
                        let new: Vec<Page> = new.collect();
                        pages.extend(new.clone());
                        apply(&view, &model, new).await;
                    }
                    Step::Again(from) => {
                        let again = pages[from.min(pages.len())..].iter().take(3).cloned().collect();
                        apply(&view, &model, again).await;
                    }
                    Step::Forget(kept) => {
                        let below = (model.ledger.head.last_seq + 1).saturating_sub(kept);
                        model.forget_below(below.max(model.ledger.head.oldest_needed_seq()));
                        apply(&view, &model, vec![]).await;
                    }
                    Step::Reopen => {
                        drop(view);
                        view = open(dir.path());
                    }
                    Step::Crash(first, count) => {
                        let mut files = view.into_files();
                        let page = model.numbers(unit, first..first + count, number as u64);
                        pages.push(page.clone());
                        drop(files.stage(std::slice::from_ref(&page), model.ledger.head.clone()).unwrap());
                        drop(files);
                        view = open(dir.path());
                        assert_ne!(view.load().await.unwrap().unwrap(), model.ledger);
                        apply(&view, &model, vec![page]).await;
                    }
                }
                model.check(&view).await.unwrap();
            }
        });
    }
}
