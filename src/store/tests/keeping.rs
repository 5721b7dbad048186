//! What is kept, merged and forgotten, and that nothing else changes.

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
    assert!(all(&view).await.unwrap().is_empty() && runs(dir.path()).is_empty());
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
    assert!(!runs(dir.path()).is_empty());
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
async fn forgetting_deletes_runs_and_keeps_what_is_needed() {
    let (dir, mut model) = filled().await;
    let oldest = records(open(dir.path()))[0];
    let view = open(dir.path());
    model.forget_below(oldest.newest);
    apply(&view, &model, vec![]).await;
    model.check(&view).await.unwrap();
    drop(view);
    let newest = |run: &RunRecord| run.newest;
    let left = records(open(dir.path()));
    assert!(left.iter().map(newest).min() == Some(oldest.newest), "page {} is still needed", oldest.newest);
    let view = open(dir.path());
    model.forget_below(oldest.newest + 1);
    let page = model.numbers("a", 700..710, 1);
    apply(&view, &model, vec![page]).await;
    model.check(&view).await.unwrap();
    drop(view);
    assert!(records(open(dir.path())).iter().map(newest).min() > Some(oldest.newest));
    let view = open(dir.path());
    model.forget_below(model.ledger.head.last_seq + 1);
    apply(&view, &model, vec![]).await;
    assert!(runs(dir.path()).is_empty(), "all is forgotten");
    assert!(view.load().await.unwrap().unwrap().pages.is_empty());
    drop(view);
    let view = open(dir.path());
    model.check(&view).await.unwrap();
    let page = model.numbers("a", 800..810, 1);
    apply(&view, &model, vec![page]).await;
    model.check(&view).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_stay_few_and_disk_is_given_back_while_entries_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let view = open(dir.path());
    let mut model = Model::new();
    for number in 0..240 {
        let page = model.numbers("a", number * 20..number * 20 + 20, 1);
        if number >= 60 {
            model.forget_below(Seq::from(number - 50));
        }
        apply(&view, &model, vec![page]).await;
        let runs = runs(dir.path());
        assert!(runs.len() <= 12, "{runs:?}");
        let length = |run: &u64| fs::metadata(dir.path().join(format!("store/run-{run}"))).unwrap().len();
        // 50 to 60 pages of 21 entries, a quarter more, and filters of at least a KiB.
        let bytes: u64 = runs.iter().map(|run| length(run) - 1_024).sum();
        assert!(bytes < 60 * 21 * 50, "{bytes} bytes");
    }
    model.check(&view).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_are_merged_to_the_last_level_and_hold_no_more_than_their_part() {
    let dir = tempfile::tempdir().unwrap();
    let view = open(dir.path());
    let mut model = Model::new();
    for number in 0..93 {
        // Some keys come again and again.
        let page = model.numbers("a", number * 40..number * 40 + 45, u64::from(number));
        apply(&view, &model, vec![page]).await;
    }
    model.check(&view).await.unwrap();
    drop(view);
    let records = records(open(dir.path()));
    let levels: Vec<u8> = records.iter().map(|run| run.level).collect();
    assert!(levels.is_sorted_by(|a, b| a >= b) && levels[0] == 2 && levels.contains(&0), "{levels:?}");
    assert!(records.iter().all(|run| run.entries <= SMALL.run_max), "{records:?}");
    model.check(&open(dir.path())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_which_little_is_needed_is_written_again_without_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let view = open(dir.path());
    let mut model = Model::new();
    for number in 0..60 {
        let page = model.numbers("a", number * 45..number * 45 + 45, 1);
        apply(&view, &model, vec![page]).await;
    }
    drop(view);
    let before = records(open(dir.path()));
    let newest_large = before.iter().rfind(|run| run.level == 2).unwrap();
    let view = open(dir.path());
    model.forget_below(newest_large.newest);
    apply(&view, &model, vec![]).await;
    model.check(&view).await.unwrap();
    drop(view);
    let after = records(open(dir.path()));
    assert_eq!((after[0].newest, after[0].entries), (newest_large.newest, 46), "{newest_large:?}");
    assert_eq!(after[1..], before[before.len() - after.len() + 1..], "the others as they were");
    let entries = model.ledger.pages.values().map(|page| u64::from(page.entries)).sum::<u64>();
    let kept = open(dir.path()).into_files().record.unwrap().kept;
    assert_eq!((kept.entries, kept.pages), (entries, model.ledger.pages.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_is_written_anew_in_the_course_of_applies() {
    let dir = tempfile::tempdir().unwrap();
    let sizes = Sizes { head_slack: 0, ..SMALL };
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
async fn the_newest_run_is_in_memory_also_after_opening() {
    let (dir, model) = filled().await;
    let files = open(dir.path()).into_files();
    let newest = files.runs.last().unwrap();
    assert_eq!((newest.record.level, files.before.len() as u64), (0, newest.record.entries));
    let newest = newest.record.newest;
    for (key, known) in model.entries.iter().filter(|(_, known)| known.seq == newest) {
        let (_, page) = files.before.get(key).unwrap();
        assert_eq!((page.seq, &*files.units[usize::from(page.unit)]), (newest, &*known.unit));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_stay_within_their_bound_also_when_they_are_read_back() {
    let (dir, model) = filled().await;
    let sizes = Sizes { filter_bytes: 1 << 10, ..SMALL };
    let view = SledView::open_with(dir.path(), sizes, PATIENCE).unwrap();
    model.check(&view).await.unwrap();
    let files = view.into_files();
    let bytes: usize = files.runs.iter().map(|run| run.filter.shape().bytes()).sum();
    assert!(files.runs.len() > 2 && bytes <= 1 << 10, "{bytes} bytes for {} runs", files.runs.len());
}

#[derive(Clone, Debug)]
enum Step {
    /// Pages with these first keys and lengths, applied together.
    Apply(Vec<(u32, u32)>),
    /// Pages of before, again.
    Again(usize),
    Forget(u64),
    Reopen,
    /// Runs written, head not.
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
    fn the_view_is_the_model(steps in steps()) {
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
