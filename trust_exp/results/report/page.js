// --- the frame: head, views, what is ticked --------------------------------------------------------------------------

const VIEWS = { runs: 'Runs', seeds: 'Over seeds', papers: 'Papers', compare: 'Compare' };
const papers = document.querySelectorAll('article').length;

function views() {
  const counts = {
    runs: runs.length,
    seeds: new Set(runs.map((run) => run.cell)).size,
    papers,
    compare: state.picked.length,
  };
  return Object.entries(VIEWS)
    .filter(
      ([view]) =>
        (view !== 'papers' || papers) && (view !== 'compare' || state.view === 'compare' || state.picked.length > 1),
    )
    .map(([view, label]) =>
      button([label, ' ', h('span.fine', counts[view].toLocaleString('en'))], () => go({ view, run: null }), {
        'aria-current': state.view === view ? 'page' : null,
        'data-focus': `view ${view}`,
      }),
    );
}

function statusBar() {
  const counts = STATUSES.map((status) => [status, runs.filter((run) => run.status === status).length]).filter(
    ([, n]) => n,
  );
  const only = (status) =>
    go({
      view: state.view === 'seeds' ? 'seeds' : 'runs',
      run: null,
      where: new Map(state.where).set('status', [status]),
    });
  return [
    h(
      'div.stack',
      { 'aria-hidden': true },
      counts.map(([status, n]) => h('span', { class: status, '--share': n })),
    ),
    h(
      'p.legend',
      counts.map(([status, n]) =>
        button([statusMark(status), ' ', n.toLocaleString('en')], () => only(status), {
          class: 'quiet',
          title: `only runs that are ${status}`,
        }),
      ),
    ),
  ];
}

function notes() {
  const note = (title, sentences, kind) =>
    sentences.length > 0 &&
    h(
      'details',
      { class: `note ${kind}`, open: sentences.length <= 3 },
      h('summary', title),
      h(
        'ul',
        sentences.map((sentence) => h('li', sentence)),
      ),
    );
  return [
    note(
      `${count(index.alarms.length, 'number')} that must be 0 and ${index.alarms.length === 1 ? 'is' : 'are'} not`,
      index.alarms,
      'alarm',
    ),
    note(`${count(index.unreadable.length, 'result')} could not be read`, index.unreadable, 'odd'),
  ];
}

function pickedBar() {
  byId('picked').hidden = !state.picked.length || state.view === 'compare';
  fill(
    byId('picked'),
    h(
      'span',
      `${count(state.picked.length, 'run')} ticked${state.picked.length >= MOST_COMPARED ? ', which is the most' : ''}`,
    ),
    button('compare', () => go({ view: 'compare', run: null }), {
      class: 'strong',
      disabled: state.picked.length < 2,
      'data-focus': 'compare',
    }),
    button('clear', () => go({ picked: [] }), { class: 'quiet' }),
  );
  markPicked();
}

let order = runs; // of the table, for the steps from run to run
const shownTable = { address: null, node: h('div'), told: h('p.fine.told') };

function showTable() {
  const address = addressOf({ ...state, run: null, picked: [] });
  if (shownTable.address === address) return;
  const some = filtered();
  const seeds = state.view === 'seeds';
  const columns = seeds ? seedColumns(some) : runColumns(some);
  const rows = sorted(
    seeds ? seedGroups(some) : some,
    columns.find((column) => column.key === sortKey()),
    isDescending(),
  );
  if (!seeds) order = rows;
  const keys = questions().flatMap(({ key }) => key ?? []);
  const unknown = keys.filter((key) => runs.every((run) => setting(run, key) === undefined));
  shownTable.address = address;
  shownTable.told.textContent = rows.length
    ? `${count(some.length, 'run')}${some.length < runs.length ? ` of ${runs.length.toLocaleString('en')}` : ''}${
        seeds ? ' in groups that differ in their seed only; mean ± sample standard deviation' : ''
      }`
    : `No run passes these filters${unknown.length ? `; none has the key ${unknown.join(', ')}` : ''}.`;
  const next = tableOf(rows, columns, !seeds);
  shownTable.node.replaceWith(next);
  shownTable.node = next;
  updateControls();
}

const scrolled = {};
let lastView = null,
  lastRun = null;

/** What opened the view that is left: the row of its run, or the button that compares. */
const opener = () =>
  ({
    run: () => shownTable.node.linkTo(runsById.get(lastRun)),
    compare: () => document.querySelector('[data-focus=compare]'),
  })[lastView]?.();

/** Show the state; step: it is another view than before, so begin at its top, or where its table was left. */
function render(step) {
  const focus = document.activeElement?.dataset.focus;
  if (step && lastView) scrolled[lastView] = scrollY;
  const places = {
    runs: 'table-view',
    seeds: 'table-view',
    run: 'run-view',
    compare: 'compare-view',
    papers: 'papers-view',
  };
  const place = byId(places[state.view] ?? 'table-view');
  for (const id of new Set(Object.values(places))) byId(id).hidden = byId(id) !== place;
  fill(byId('views'), views());
  if (state.view === 'run') showRun(place, runsById.get(state.run));
  else if (state.view === 'compare') showCompare(place);
  else if (state.view !== 'papers') showTable();
  pickedBar();
  if (step) {
    const isTable = place.id === 'table-view';
    scrollTo(0, isTable ? (scrolled[state.view] ?? 0) : 0);
    if (isTable) opener()?.focus();
    else place.querySelector('h2')?.focus({ preventScroll: true });
  } else if (focus) document.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus({ preventScroll: true });
  lastView = state.view;
  lastRun = state.run ?? lastRun;
}

function theme() {
  const root = document.documentElement,
    toggle = byId('theme');
  const isDark = () =>
    (root.dataset.theme ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light')) === 'dark';
  const say = () => {
    toggle.textContent = isDark() ? 'light theme' : 'dark theme';
  };
  try {
    root.dataset.theme = localStorage.getItem('trust-exp-theme') ?? '';
  } catch {
    /* a page from disk may have no storage */
  }
  if (!root.dataset.theme) delete root.dataset.theme;
  toggle.addEventListener('click', () => {
    root.dataset.theme = isDark() ? 'light' : 'dark';
    try {
      localStorage.setItem('trust-exp-theme', root.dataset.theme);
    } catch {
      /* then it lasts as long as the page */
    }
    say();
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', say);
  say();
}

function listen() {
  addEventListener('popstate', () => {
    readAddress();
    render(true);
  });
  document.addEventListener('DOMContentLoaded', () => {
    if (state.view === 'run' || state.view === 'compare') render(false);
  });
  document.addEventListener('change', ({ target }) => target.dataset.pick && pick(target.dataset.pick));
  document.addEventListener('click', (event) => {
    const { target } = event;
    if (!target.closest('details.menu'))
      for (const open of document.querySelectorAll('details.menu[open]')) open.open = false;
    const run =
      target.closest('a[data-run]')?.dataset.run ??
      (target.closest('td:not(.tick)') && target.closest('tr.open')?.dataset.id);
    if (!run || event.ctrlKey || event.metaKey || event.shiftKey || String(getSelection())) return;
    event.preventDefault();
    go({ view: 'run', run });
  });
  document.addEventListener('keydown', (event) => {
    const menus = document.querySelectorAll('details.menu[open]');
    const row = event.target.closest?.('tr.open');
    if (event.key === 'Escape' && menus.length)
      for (const open of menus) {
        open.open = false;
        open.firstChild.focus();
      }
    else if (event.key === 'Escape') document.querySelector('main > section:not([hidden]) [data-key=Escape]')?.click();
    else if (row && (event.key === 'ArrowDown' || event.key === 'ArrowUp')) {
      const next = event.key === 'ArrowDown' ? row.nextElementSibling : row.previousElementSibling;
      if (next) {
        event.preventDefault();
        next.querySelector('a').focus();
      }
    }
  });
  let closed = [];
  addEventListener('beforeprint', () => {
    shownTable.node.complete?.();
    closed = [...document.querySelectorAll('section:not([hidden]) details:not([open], .menu)')];
    for (const one of closed) {
      one.complete?.();
      one.open = true;
    }
  });
  addEventListener('afterprint', () => {
    for (const one of closed) one.open = false;
  });
}

theme();
fill(byId('statuses'), statusBar());
fill(byId('notes'), notes());
byId('table-view').append(controls(), shownTable.told, shownTable.node);
listen();
readAddress();
render(true);
requestAnimationFrame(() => performance.mark('usable'));
