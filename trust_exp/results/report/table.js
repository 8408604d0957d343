// --- columns ---------------------------------------------------------------------------------------------------------

const runLink = (run) =>
  h('a', { href: `#run=${encodeURIComponent(run.id)}`, title: run.name, 'data-run': run.id }, run.id);

const FIXED = [
  { key: 'status', value: (run) => run.status, cell: (run) => statusMark(run.status), title: (run) => run.error },
  { key: 'run', value: (run) => run.id, cell: runLink },
  ...['method', 'dataset'].map(optionColumn),
];
const AFTER = { ...optionColumn('size'), cell: (run) => sizeMark(option(run, 'size')) };
const EXTRA = [
  {
    key: 'seconds',
    label: 'time',
    number: true,
    value: (run) => run.seconds || null,
    cell: (run) => duration(run.seconds || null),
    title: (run) => `${run.seconds} s in all phases`,
  },
  {
    key: 'started',
    value: (run) => run.started,
    cell: (run) => run.started.slice(0, 10) || DASH,
    title: (run) => run.started,
  },
];

function optionColumn(key) {
  return { key, value: (run) => option(run, key), cell: (run) => shown(option(run, key)), number: key === 'seed' };
}

function metricColumn(metric) {
  const unit = units.get(metric);
  const row = (run) => run.rows.get(metric);
  return {
    key: metric,
    metric,
    unit,
    number: true,
    value: (run) => row(run)?.value,
    cell: (run) => measured(row(run)?.value, unit),
    title: (run) => row(run) && saying(row(run)),
  };
}

const varies = (key, some) => some.some((run) => option(run, key) !== option(some[0], key));
const defaultColumns = (some) => [
  ...['model', 'seed'].filter((key) => varies(key, some)),
  ...mainMetrics(some),
  'seconds',
  'started',
];

/** All columns of the table of runs: settings, the size, then numbers, so that no number stands without its size. */
function runColumns(some) {
  const chosen = state.columns ?? defaultColumns(some);
  const settings = chosen.filter((key) => !units.has(key) && !EXTRA.some((column) => column.key === key));
  return [
    ...FIXED,
    ...settings.map(optionColumn),
    AFTER,
    ...chosen.filter((key) => units.has(key)).map(metricColumn),
    ...EXTRA.filter((column) => chosen.includes(column.key)),
  ];
}

// --- over seeds ------------------------------------------------------------------------------------------------------

/** Runs that differ in their seed only, with the mean and the sample standard deviation of each metric. */
function seedGroups(some) {
  const groups = [...groupBy(some, (run) => run.cell).values()].map((members) => ({
    runs: members,
    first: members[0],
    settings: '',
  }));
  const choice = (group) =>
    MAIN_KEYS.slice(0, 4)
      .map((key) => shown(option(group.first, key)))
      .join(' ');
  for (const alike of groupBy(groups, choice).values()) {
    const keys =
      alike.length > 1
        ? differingKeys(alike.map((group) => group.first)).filter((key) => key !== 'seed' && !freeKeys.has(key))
        : [];
    for (const group of alike)
      group.settings = keys.map((key) => `${key}=${shown(flatConfig(group.first).get(key))}`).join('\n');
  }
  return groups;
}

/** Over the runs that were evaluated as the newest of them was; with others it would be a mean of unlike things. */
function meanOf(group, metric) {
  const having = group.runs.filter((run) => isNumber(run.rows.get(metric)?.value));
  if (!having.length) return null;
  const asked = (run) => parts[run.evals][run.rows.get(metric).suite];
  const values = having.filter((run) => asked(run) === asked(having[0])).map((run) => run.rows.get(metric).value);
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const spread = values.reduce((a, b) => a + (b - mean) ** 2, 0);
  return { mean, std: values.length > 1 ? Math.sqrt(spread / (values.length - 1)) : null, n: values.length };
}

function meanCell(group, metric) {
  const found = meanOf(group, metric);
  if (!found) return DASH;
  const unit = units.get(metric);
  return [
    measured(found.mean, unit),
    found.std !== null &&
      h(
        'span.spread',
        ` ± ${unit === 'fraction' ? percent(found.std) : plainNumber(Number(found.std.toPrecision(2)))}`,
      ),
    found.n !== group.runs.length && h('span.fine', ` n ${found.n}`),
  ];
}

function seedColumns(some) {
  const chosen = state.columns ?? defaultColumns(some);
  const ofFirst = (key) => ({
    key,
    value: (group) => option(group.first, key),
    cell: (group) => shown(option(group.first, key)),
  });
  const seeds = (group) => group.runs.map((run) => option(run, 'seed')).sort((a, b) => a - b);
  return [
    ...['method', 'dataset', 'model'].map(ofFirst),
    {
      key: 'settings',
      value: (group) => group.settings,
      cell: (group) => group.settings && h('span.settings', group.settings),
    },
    { ...ofFirst('size'), cell: (group) => sizeMark(option(group.first, 'size')) },
    {
      key: 'n',
      number: true,
      value: (group) => group.runs.length,
      cell: (group) => String(group.runs.length),
      title: (group) => `seeds ${seeds(group).join(', ')}`,
    },
    {
      key: 'states',
      label: 'status',
      value: (group) => group.runs.filter((run) => run.status === 'done').length,
      cell: (group) =>
        [...groupBy(group.runs, (run) => run.status)].map(([status, members]) => [
          members.length < group.runs.length && `${members.length} `,
          statusMark(status),
          ' ',
        ]),
    },
    ...chosen
      .filter((key) => units.has(key))
      .map((metric) => ({
        key: metric,
        metric,
        unit: units.get(metric),
        number: true,
        value: (group) => meanOf(group, metric)?.mean,
        cell: (group) => meanCell(group, metric),
        title: (group) =>
          meanOf(group, metric) &&
          `${metric}: mean ± sample standard deviation over ${count(meanOf(group, metric).n, 'seed')}`,
      })),
    {
      key: 'open',
      label: '',
      cell: (group) =>
        group.runs.length > 1 &&
        button(
          'compare',
          () => go({ view: 'compare', picked: group.runs.slice(0, MOST_COMPARED).map((run) => run.id) }),
          { class: 'quiet' },
        ),
    },
  ];
}

// --- a table of many rows --------------------------------------------------------------------------------------------

const isDescending = () => state.sort.startsWith('-');
const sortKey = () => state.sort.replace(/^-/, '');

function headOf(column) {
  const active = column.value && column.key === sortKey();
  const label = column.metric ? metricName(column.metric) : (column.label ?? column.key);
  const unit = unitMark(column.unit);
  const first = column.number ? '-' : ''; // the greatest number first, but the first letter
  const sort = () => go({ sort: active ? (isDescending() ? '' : '-') + column.key : first + column.key });
  return h(
    'th',
    {
      scope: 'col',
      role: 'columnheader',
      class: `${column.number ? 'number' : ''} ${column.metric ? 'metric' : `is-${column.key}`}`,
      'aria-sort': active ? (isDescending() ? 'descending' : 'ascending') : null,
    },
    column.value
      ? h('button', { type: 'button', onclick: sort, 'data-focus': `sort ${column.key}` }, h('span', label, unit))
      : label,
  );
}

function rowOf(row, columns, tick) {
  const run = tick && row;
  return h(
    'tr',
    { role: 'row', 'data-id': run && run.id, class: run && 'open' },
    run &&
      h(
        'td',
        { role: 'cell', class: 'tick' },
        h('input', { type: 'checkbox', 'aria-label': `compare ${run.name}`, 'data-pick': run.id }),
      ),
    columns.map((column) =>
      h(
        'td',
        {
          role: 'cell',
          class: `${column.number ? 'number' : ''} ${column.metric ? 'metric' : `is-${column.key}`}`,
          'data-label': `${column.metric ?? column.label ?? column.key}${column.unit === 'fraction' ? ' %' : ''}`,
          title: column.title?.(row),
        },
        column.cell(row),
      ),
    ),
  );
}

/** A table that makes its rows as they come into view. */
function tableOf(rows, columns, tick) {
  const body = h('tbody', { role: 'rowgroup' });
  const more = button('', () => grow(), { class: 'more' });
  const grow = (n = FIRST_ROWS) => {
    const have = body.children.length;
    body.append(...rows.slice(have, have + n).map((row) => rowOf(row, columns, tick)));
    more.hidden = body.children.length === rows.length;
    more.textContent = `${(rows.length - body.children.length).toLocaleString('en')} more`;
    markPicked();
  };
  new IntersectionObserver((seen) => seen.some((entry) => entry.isIntersecting) && grow(), {
    rootMargin: '600px',
  }).observe(more);
  const table = h(
    'table',
    { role: 'table' },
    h(
      'thead',
      { role: 'rowgroup' },
      h('tr', { role: 'row' }, tick && h('th.tick', h('span.hidden', 'compare')), columns.map(headOf)),
    ),
    body,
  );
  const whole = h('div.scroll.rows', { tabindex: 0, role: 'region', 'aria-label': 'table' }, table, more);
  whole.complete = () => grow(rows.length);
  whole.linkTo = (row) => {
    grow(Math.max(0, rows.indexOf(row) + 1 - body.children.length));
    return body.children[rows.indexOf(row)]?.querySelector('a');
  };
  grow();
  return whole;
}

function markPicked() {
  for (const box of document.querySelectorAll('[data-pick]')) {
    box.checked = state.picked.includes(box.dataset.pick);
    box.disabled = !box.checked && state.picked.length >= MOST_COMPARED;
  }
}

const pick = (id) =>
  go({ picked: state.picked.includes(id) ? state.picked.filter((other) => other !== id) : [...state.picked, id] });

// --- controls --------------------------------------------------------------------------------------------------------

/** A button with a panel that is filled when it first opens. */
function menu(label, content) {
  const title = h('span', label),
    panel = h('div.panel');
  const whole = h('details.menu', h('summary', title), panel);
  whole.addEventListener('toggle', () => {
    if (!whole.open) return;
    for (const other of document.querySelectorAll('details.menu[open]'))
      if (other !== whole && !other.contains(whole)) other.open = false;
    if (!panel.childElementCount) content(panel);
    updateControls();
    panel.classList.remove('flip');
    panel.classList.toggle(
      'flip',
      panel.getBoundingClientRect().right > byId('table-view').getBoundingClientRect().right,
    );
  });
  return Object.assign(whole, {
    say: (text, active) => {
      title.textContent = text;
      whole.classList.toggle('active', active);
    },
  });
}

const updates = new Set();
const updateControls = () => {
  for (const update of updates) update();
};

function facet(key) {
  const boxes = h('div.boxes');
  const begin = () => {
    const values = [...new Set(runs.map((run) => facetValue(run, key)))].sort(collator.compare);
    boxes.replaceChildren(
      ...values.map((value) => {
        const box = h('input', { type: 'checkbox', onchange: () => toggle(value) }),
          n = h('span.fine');
        const line = h('label', box, h('span', value), n);
        updates.add(() => {
          if (!boxes.offsetParent) return;
          box.checked = state.where.get(key)?.includes(value) ?? false;
          n.textContent = filtered(key).filter((run) => facetValue(run, key) === value).length;
        });
        return line;
      }),
    );
  };
  const toggle = (value) => {
    const before = state.where.get(key) ?? [];
    const values = before.includes(value) ? before.filter((other) => other !== value) : [...before, value];
    const where = new Map([...state.where].filter(([other]) => other !== key));
    go({ where: values.length ? where.set(key, values) : where });
  };
  return { boxes, begin };
}

function facetMenu(key) {
  const { boxes, begin } = facet(key);
  const whole = menu(key, (panel) => {
    panel.append(boxes);
    begin();
  });
  updates.add(() => {
    const chosen = state.where.get(key) ?? [];
    whole.say(chosen.length ? `${key}: ${chosen.join(', ')}` : key, chosen.length > 0);
  });
  return whole;
}

function moreMenu() {
  const whole = menu('more filters', (panel) =>
    panel.append(
      ...otherKeys().map((key) => {
        const { boxes, begin } = facet(key);
        const group = h('details.group', h('summary', key), boxes);
        group.addEventListener('toggle', () => {
          if (!boxes.childElementCount) begin();
          updateControls();
        });
        return group;
      }),
    ),
  );
  updates.add(() => {
    const chosen = [...state.where].filter(([key]) => key !== 'status' && !MAIN_KEYS.slice(0, 4).includes(key));
    whole.say(
      chosen.length ? chosen.map(([key, values]) => `${key}: ${values.join(', ')}`).join('; ') : 'more filters',
      chosen.length > 0,
    );
  });
  return whole;
}

function columnsMenu() {
  const choices = (keys) =>
    h(
      'div.boxes',
      keys.map((key) => {
        const box = h('input', {
          type: 'checkbox',
          onchange: () => {
            const now = state.columns ?? defaultColumns(filtered());
            go({ columns: box.checked ? [...now, key] : now.filter((other) => other !== key) });
          },
        });
        updates.add(() => {
          if (box.offsetParent) box.checked = (state.columns ?? defaultColumns(filtered())).includes(key);
        });
        return h('label', box, h('span', key));
      }),
    );
  return menu('columns', (panel) =>
    panel.append(
      button('as at first', () => go({ columns: null }), { class: 'quiet' }),
      h('h3', 'metrics'),
      choices(metricsOf(runs)),
      h('h3', 'run'),
      choices(['model', 'seed', 'seconds', 'started']),
      h('h3', 'configuration'),
      choices(otherKeys()),
    ),
  );
}

function controls() {
  const search = h('input', {
    type: 'search',
    placeholder: 'Filter: a name, an error, method.epsilon=0.5',
    'aria-label': 'filter runs',
    oninput: () => go({ q: search.value }),
  });
  const clear = button('clear filters', () => go({ q: '', where: new Map() }), { class: 'quiet clear' });
  const order = h('select', { 'aria-label': 'sort by', class: 'order', onchange: () => go({ sort: order.value }) });
  updates.add(() => {
    if (document.activeElement !== search) search.value = state.q;
    clear.hidden = !state.q && !state.where.size;
    const columns = (state.view === 'seeds' ? seedColumns : runColumns)(filtered()).filter((column) => column.value);
    order.replaceChildren(
      ...columns.flatMap(({ key, label }) =>
        ['-', ''].map((sign) =>
          h(
            'option',
            { value: sign + key, selected: sign + key === state.sort },
            `${label ?? key}, ${sign ? 'descending' : 'ascending'}`,
          ),
        ),
      ),
    );
  });
  const facets = ['status', ...MAIN_KEYS.slice(0, 4)].filter(
    (key) => new Set(runs.map((run) => facetValue(run, key))).size > 1,
  );
  return h('div.controls', search, h('div.menus', facets.map(facetMenu), moreMenu(), columnsMenu()), order, clear);
}
