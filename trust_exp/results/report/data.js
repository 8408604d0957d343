// --- data: the index is read at once, the details of a run when it is opened -----------------------------------------

const index = JSON.parse(byId('index').textContent);
const { parts, measures } = index;
const STATUSES = ['done', 'running', 'interrupted', 'failed'];
const MAIN_KEYS = ['method', 'dataset', 'model', 'size', 'seed'];
// what a reader of many runs can do without, until it is asked for
const MINOR = /^derived\/|\/after_|\/bound_gap$|\/tightness$|\/broken_certificates$|\/class_|\/train_/;
const MOST_METRICS = 5,
  FIRST_ROWS = 100,
  MOST_COMPARED = 8;

const runs = index.runs.map((run, place) => ({
  ...run,
  place,
  rows: new Map(
    run.rows.map(([measure, value, low, high, n, how]) => {
      const { metric, suite, unit } = measures[measure];
      return [metric, { metric, suite, unit, value, low, high, n, how: parts[how] }];
    }),
  ),
}));
const runsById = new Map(runs.map((run) => [run.id, run]));
const units = new Map(measures.map(({ metric, unit }) => [metric, unit]));

const memo = (make) => {
  const made = new Map();
  return (key) => made.get(key) ?? made.set(key, make(key)).get(key);
};

/** Dotted keys and values of a part of a configuration. */
function flatten(value, key, into) {
  if (value !== null && typeof value === 'object' && !Array.isArray(value)) {
    for (const [name, inner] of Object.entries(value)) flatten(inner, key ? `${key}.${name}` : name, into);
  } else into.set(key, value);
  return into;
}
const flatPart = memo((spot) => {
  const [key, place] = spot.split(' ');
  return flatten(parts[place], key, new Map());
});
const flatConfig = memo(
  (run) => new Map(Object.entries(run.config).flatMap(([key, place]) => [...flatPart(`${key} ${place}`)])),
);

/** A value of a run's configuration; a group such as the method is its name. */
function option(run, key) {
  const flat = flatConfig(run);
  return flat.has(`${key}.name`) ? flat.get(`${key}.name`) : flat.get(key);
}

const keyed = (value) => (typeof value === 'string' ? value : JSON.stringify(value)); // undefined stays undefined

/** The keys in which some of the runs differ; those that only repeat a choice (its class, its schema) are left out. */
function differingKeys(some) {
  const keys = new Set(some.flatMap((run) => [...flatConfig(run).keys()]));
  return [...keys]
    .sort()
    .filter(
      (key) =>
        !/(^|\.)_(schema|target)_$/.test(key) &&
        some.some((run) => keyed(flatConfig(run).get(key)) !== keyed(flatConfig(some[0]).get(key))),
    );
}
const freeKeys = new Set(index.free); // that change where or how fast a run runs, not what it is
const otherKeys = memo(() => {
  const main = new Set(MAIN_KEYS.flatMap((key) => [key, `${key}.name`]));
  return differingKeys(runs).filter((key) => !main.has(key));
});

const detailOf = memo((run) => JSON.parse(byId(`run-${run.place}`).textContent));
const expand = (numbered) => Object.fromEntries(Object.entries(numbered).map(([key, place]) => [key, parts[place]]));

// --- state: all of it stands in the address, so that a view can be shared --------------------------------------------

const BLANK = { view: 'runs', q: '', sort: '-started', columns: null, run: null, picked: [], where: new Map() };
let state = BLANK;

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const where = new Map();
  for (const [key, value] of given) {
    if (key.startsWith('where.')) where.set(key.slice(6), [...(where.get(key.slice(6)) ?? []), value]);
  }
  state = {
    view: given.get('view') ?? (given.has('run') ? 'run' : 'runs'),
    q: given.get('q') ?? '',
    sort: given.get('sort') ?? BLANK.sort,
    columns: given.has('column') ? given.getAll('column').filter(Boolean) : null,
    run: given.get('run'),
    picked: given
      .getAll('picked')
      .filter((id) => runsById.has(id))
      .slice(0, MOST_COMPARED),
    where,
  };
}

function addressOf({ view, q, sort, columns, run, picked, where }) {
  const told = new URLSearchParams();
  if (run !== null && view === 'run') told.set('run', run);
  else if (view !== BLANK.view) told.set('view', view);
  if (q) told.set('q', q);
  if (sort !== BLANK.sort) told.set('sort', sort);
  for (const key of columns === null ? [] : ['', ...columns]) told.append('column', key);
  for (const id of picked) told.append('picked', id);
  for (const [key, values] of where) for (const value of values) told.append(`where.${key}`, value);
  return `#${told}`;
}

/** Change the state and show it. A step to another view is one that the browser's Back undoes. */
function go(change) {
  const before = state;
  state = { ...state, ...change };
  const step = before.view !== state.view || before.run !== state.run;
  history[step ? 'pushState' : 'replaceState'](null, '', addressOf(state));
  render(step);
}

// --- formats ---------------------------------------------------------------------------------------------------------

const DASH = '–';

function percent(value, digits = 1) {
  return isNumber(value) ? (100 * value).toFixed(digits) : String(value);
}

/** A measured value as a table shows it; the unit of a fraction stands in the column's head. */
const measured = (value, unit) =>
  value === null || value === undefined ? DASH : unit === 'fraction' ? percent(value) : plainNumber(value);
const withUnit = (value, unit) =>
  unit === 'fraction' && isNumber(value) ? `${percent(value, 2)} %` : measured(value, unit);
const unitMark = (unit) => unit && h('span.unit', unit === 'fraction' ? '%' : unit);
const intervalOf = ({ low, high, unit }) =>
  low === null || high === null ? '' : `${measured(low, unit)} – ${measured(high, unit)}`;

function saying(row) {
  const how = row.how && `, ${row.how}`;
  const interval = intervalOf(row) && `, 95 % interval ${intervalOf(row)}`;
  return `${row.metric} ${withUnit(row.value, row.unit)}${interval}${row.n === null ? '' : `, n ${row.n}`}${how}`;
}

function duration(seconds) {
  if (!isNumber(seconds)) return DASH;
  if (seconds < 0.095) return `${Math.round(1000 * seconds)} ms`;
  if (seconds < 99.5) return `${seconds < 9.95 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  return seconds < 5940 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

const moment = (iso) => (iso ? iso.slice(0, 16).replace('T', ' ') : DASH);
/** A value of a configuration; numbers to six digits, so that 36/255 stays readable in a list. */
function shown(value) {
  if (value === undefined) return DASH;
  if (typeof value === 'string') return value;
  return JSON.stringify(value, (_, one) => (isNumber(one) ? Number(one.toPrecision(6)) : one)).replaceAll(',', ', ');
}
const count = (n, what) => `${n.toLocaleString('en')} ${what}${n === 1 ? '' : 's'}`;
const colourOf = (place) => `var(--line-${place})`;

const statusMark = (status) => h('span', { class: `status ${STATUSES.includes(status) ? status : 'unknown'}` }, status);
const sizeMark = (size) =>
  h(
    'span',
    { class: size === 'full' ? 'size' : 'size reduced', title: size === 'full' ? null : 'not the full experiment' },
    shown(size),
  );
const metricName = (metric) => {
  const cut = metric.indexOf('/') + 1;
  const pieces = metric
    .slice(cut)
    .split(/(?<=_)|(?=@)/)
    .flatMap((piece) => [h('wbr'), piece]);
  return [cut > 1 && h('span.suite', metric.slice(0, cut)), h('span.name', pieces)];
};
const button = (text, onclick, given = {}) => h('button', { type: 'button', onclick, ...given }, text);

// --- what is shown: filters, order, columns --------------------------------------------------------------------------

const RESULT_KEYS = { status: 'status', run_id: 'id', name: 'name' }; // not of the configuration
const setting = (run, key) => (Object.hasOwn(RESULT_KEYS, key) ? run[RESULT_KEYS[key]] : option(run, key));
const facetValue = (run, key) => shown(setting(run, key));
const haystack = memo((run) =>
  [
    run.name,
    run.status,
    run.error ?? '',
    ...MAIN_KEYS.map((key) => `${key}=${shown(option(run, key))}`),
    ...otherKeys().map((key) => `${key}=${shown(option(run, key))}`),
  ]
    .join('\n')
    .toLowerCase(),
);

/** What a word of the search asks for: the whole value of a key, as in the command's selection, or a part of a text. */
function question(word) {
  const [key, given] = word.split(/=(.*)/);
  if (!key || given === undefined) return { fits: (run) => haystack(run).includes(word.toLowerCase()) };
  const texts = [given, ...given.split(',')]; // a list has commas of its own
  const fits = (run) => {
    const value = setting(run, key);
    if (value === undefined) return false;
    if (!given) return true; // it is being typed
    return texts.some((text) => bare(shown(value)) === bare(text) || (isNumber(value) && value === numberOf(text)));
  };
  return { key, fits };
}

const questions = () => state.q.split(/\s+/).filter(Boolean).map(question);
const bare = (text) => text.toLowerCase().replaceAll(' ', '');

function numberOf(text) {
  const [over, under = '1'] = text.split('/');
  return over && under ? Number(over) / Number(under) : NaN;
}

/** The runs that all filters let through, but for one facet if it is to count what it would let through. */
function filtered(but = null) {
  const asked = questions();
  const where = [...state.where].filter(([key]) => key !== but);
  return runs.filter(
    (run) =>
      where.every(([key, values]) => values.includes(facetValue(run, key))) && asked.every(({ fits }) => fits(run)),
  );
}

const collator = new Intl.Collator('en', { numeric: true });
const isMissing = (value) => value === null || value === undefined || value === '' || Number.isNaN(value);

/** Rows in the order of a column: numbers as numbers, equal ones as they were, missing ones last either way. */
function sorted(rows, column, descending) {
  if (!column) return rows;
  const sign = descending ? -1 : 1;
  const values = new Map(rows.map((row) => [row, column.value(row)]));
  return [...rows].sort((a, b) => {
    const [left, right] = [values.get(a), values.get(b)];
    if (isMissing(left) || isMissing(right)) return isMissing(left) - isMissing(right);
    const [mixedLeft, mixedRight] = [isNumber(left), isNumber(right)];
    if (mixedLeft && mixedRight) return sign * (left - right);
    return sign * (mixedLeft !== mixedRight ? mixedRight - mixedLeft : collator.compare(left, right));
  });
}

/** The metrics of some runs in the order of their results. */
const metricsOf = (some) => [...new Set(some.flatMap((run) => [...run.rows.keys()]))];
const isMinor = memo((metric) => MINOR.test(metric));

/** The metrics that at least half of the runs with measurements have, or else those that most have, with their counts. */
function commonMetrics(some) {
  const found = some
    .map((run) => [...run.rows.values()].filter(({ metric, value }) => value !== null && !isMinor(metric)))
    .filter((rows) => rows.length);
  const counts = [...groupBy(found.flat(), (row) => row.metric)].map(([metric, rows]) => [metric, rows.length]);
  const least = Math.min(found.length / 2, Math.max(...counts.map(([, n]) => n)));
  return counts.filter(([, n]) => n >= least);
}

/** Of each family of common metrics (certify/accuracy at some radius) the one or two that most runs have. */
function mainMetrics(some) {
  const found = commonMetrics(some);
  const families = groupBy(found, ([metric]) => metric.split('@')[0]);
  const most = families.size < MOST_METRICS ? 2 : 1;
  const kept = [...families.values()].flatMap((family) => [...family].sort((a, b) => b[1] - a[1]).slice(0, most));
  const wanted = new Set(kept.map(([metric]) => metric).slice(0, MOST_METRICS));
  return found.map(([metric]) => metric).filter((metric) => wanted.has(metric));
}

function groupBy(items, keyOf) {
  const groups = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (groups.has(key)) groups.get(key).push(item);
    else groups.set(key, [item]);
  }
  return groups;
}
