// --- one run ---------------------------------------------------------------------------------------------------------

const section = (title, ...content) => h('section.part', h('h3', title), content);
const pairs = (entries) =>
  h(
    'dl',
    entries
      .filter(([, value]) => value !== null && value !== undefined && value !== '')
      .map(([key, value]) => h('div', h('dt', key), h('dd', value))),
  );
const plainTable = (heads, rows, given) =>
  h('div.scroll', h('table', given, h('thead', h('tr', heads)), h('tbody', rows)));
const td = (value, given) => h('td', given, value);
const head = (label, given = {}) => h('th', { scope: 'col', ...given }, label);

const backButton = () =>
  button('← all runs', () => go({ view: 'runs', run: null }), { class: 'quiet', 'data-key': 'Escape' });

function showRun(place, run) {
  if (!run) return fill(place, backButton(), h('p.note', `There is no run ${state.run} in this report.`));
  if (!byId(`run-${run.place}`)) return fill(place, h('p.note', 'The page is still being read.'));
  const detail = detailOf(run);
  return fill(
    place,
    runHead(run, detail),
    failure(run, detail),
    h('div.columns', measurements(run), figures([[run, detail]])),
    curves([[run, detail]]),
    classes(detail),
    phases(detail),
    h('div.columns', provenance(detail), configuration(run)),
  );
}

function runHead(run, detail) {
  const at = order.indexOf(run);
  const step = (to, label) => button(label, () => go({ run: to.id }), { class: 'quiet', disabled: !to });
  return h(
    'header.run-head',
    h(
      'div.steps',
      backButton(),
      step(order[at - 1], 'previous'),
      step(order[at + 1], 'next'),
      h('label.quiet', h('input', { type: 'checkbox', 'data-pick': run.id }), 'compare'),
    ),
    h('h2', { tabindex: -1 }, run.name),
    h(
      'p.marks',
      statusMark(run.status),
      sizeMark(option(run, 'size')),
      MAIN_KEYS.filter((key) => key !== 'size').map((key) =>
        h('span', h('span.fine', `${key} `), shown(option(run, key))),
      ),
      h('span', h('span.fine', 'started '), moment(run.started)),
      h('span', h('span.fine', 'took '), duration(run.seconds || null)),
    ),
    h('p.fine.path', detail.folder),
  );
}

function failure(run, { traceback, log }) {
  if (run.status === 'done') return null;
  const lines = (title, content) =>
    content && h('details', { open: run.status === 'failed' }, h('summary', title), h('pre', content));
  return (
    (run.error || traceback || log) &&
    h(
      'section',
      { class: `failure ${run.status}` },
      h('p.reason', run.error ?? `This run is ${run.status}.`),
      lines('the end of traceback.txt', traceback),
      lines('the end of log.txt', log),
    )
  );
}

function measurements(run) {
  if (!run.rows.size) return section('Measurements', h('p.fine', 'Nothing has been measured.'));
  const rows = [...run.rows.values()].map((row) =>
    h(
      'tr',
      h('th', { scope: 'row' }, metricName(row.metric)),
      td(withUnit(row.value, row.unit), { class: `number${broken(row) ? ' broken' : ''}` }),
      td(intervalOf(row), { class: 'number fine' }),
      td(row.n?.toLocaleString('en') ?? '', { class: 'number fine' }),
      td(row.how, { class: 'fine' }),
    ),
  );
  const number = { class: 'number' };
  return section(
    ['Measurements ', option(run, 'size') !== 'full' && sizeMark(option(run, 'size'))],
    plainTable([head('metric'), head('value', number), head('95 %', number), head('n', number), head('how')], rows, {
      class: 'measured',
    }),
  );
}

const broken = (row) => row.how === 'must be 0' && row.value !== 0;

function figures(opened) {
  const picture = ([run, detail]) =>
    detail.figures.map(({ path, picture: number, where, why }) =>
      h(
        'figure',
        number === undefined
          ? h('p.note', `${where} ${why}.`)
          : h('img', { src: byId(`picture-${number}`)?.textContent, alt: `${path} of ${run.name}` }),
        h('figcaption.fine', opened.length > 1 ? `${run.id} ${path}` : path),
      ),
    );
  const all = opened.flatMap(picture);
  return all.length ? section('Figures', h('div.figures', all)) : null;
}

/** One chart a metric, with a line for each run that logged it. */
function curves(opened) {
  const names = [...new Set(opened.flatMap(([, detail]) => detail.curves.map((curve) => curve.name)))];
  const charts = names.map((name) => {
    const found = opened.map(([run, detail], i) => ({
      label: run.id,
      colour: colourOf(i),
      ...detail.curves.find((curve) => curve.name === name),
    }));
    const lines = found.filter((line) => line.steps?.length);
    const odd = found.reduce((sum, line) => sum + (line.not_finite ?? 0), 0);
    const note = odd ? `${count(odd, 'value')} not finite, left out` : '';
    return lines.length
      ? chart(name, lines, note)
      : h('figure.chart', h('figcaption', h('strong', name)), h('p.fine', note));
  });
  return charts.length ? section('Learning curves', h('div.charts', charts)) : null;
}

function classes({ classes: found, units: unitsOf }) {
  const metrics = Object.keys(found);
  if (!metrics.length) return null;
  const names = [...new Set(metrics.flatMap((metric) => Object.keys(found[metric])))].sort(collator.compare);
  const cell = (metric, name) => {
    const [value, low, high, n] = found[metric][name] ?? [];
    const unit = unitsOf[metric];
    const row = {
      metric,
      value,
      low: low ?? null,
      high: high ?? null,
      n: n ?? null,
      how: `class ${name}`,
      unit,
    };
    return td(measured(value, unit), {
      class: 'number heat',
      '--share': isNumber(value) && unit === 'fraction' ? value : 0,
      title: value === undefined ? null : saying(row),
    });
  };
  const whole = h(
    'details',
    h(
      'summary',
      `${count(names.length, 'class').replace('classs', 'classes')}, ${count(metrics.length, 'metric')}`,
    ),
  );
  whole.complete = () =>
    whole.childElementCount > 1 ||
    whole.append(
      plainTable(
        [
          head('class'),
          ...metrics.map((metric) => head([metricName(metric), unitMark(unitsOf[metric])], { class: 'number' })),
        ],
        names.map((name) =>
          h(
            'tr',
            h('th', { scope: 'row' }, name),
            metrics.map((metric) => cell(metric, name)),
          ),
        ),
      ),
    );
  whole.addEventListener('toggle', whole.complete);
  return section('By class', whole);
}

function phases({ seconds, facts }) {
  const longest = Math.max(...Object.values(seconds));
  const bars = Object.entries(seconds).map(([phase, value]) =>
    h(
      'div.bar',
      { '--share': longest ? value / longest : 0 },
      h('span', phase),
      h('span.track'),
      h('span.number', duration(value)),
    ),
  );
  const known = pairs([
    ['steps', facts.steps?.toLocaleString('en')],
    ['samples a second', facts.samples_per_second?.toLocaleString('en')],
    ['peak memory', facts.peak_memory_mb && `${facts.peak_memory_mb.toLocaleString('en')} MB`],
  ]);
  return bars.length ? section('Time', h('div.columns', h('div.bars', bars), known)) : null;
}

function provenance(detail) {
  const { command, versions, commit, ...machine } = expand(detail.environment);
  const places = groupBy(Object.entries(parts[detail.elsewhere]), ([, place]) => JSON.stringify(place));
  const elsewhere = [...places.values()].flatMap((together) => {
    const suites = together.map(([suite]) => suite).join(', ');
    const { command: own, ...environment } = together[0][1];
    return [
      [`command of ${suites}`, own && code(commandLine(own))],
      [`${suites} ran with`, Object.keys(environment).length ? code(listed(environment)) : null],
    ];
  });
  return section(
    'Provenance',
    pairs([
      ['command', command && code(commandLine(command))],
      ['commit', commit && code(commit)],
      ['ended', moment(detail.ended)],
      ...Object.entries(machine).map(([key, value]) => [key, shown(value)]),
      ['versions', versions && code(listed(versions, ' '))],
      ['data', dataOf(detail) && code(dataOf(detail))],
      ...elsewhere,
    ]),
  );
}

const code = (content) => h('code', content);
const listed = (value, between = ' = ') =>
  [...flatten(value, '', new Map())]
    .map(([key, one]) => `${key}${between}${Array.isArray(one) ? one.join(' ') : shown(one)}`)
    .join('\n');
const dataOf = (detail) => parts[detail.data] && listed(parts[detail.data]);
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);
const commandLine = (words) => `python ${words.map(quoted).join(' ')}`;

function configuration(run) {
  const scalars = Object.entries(run.config).filter(([, place]) => !isGroup(parts[place]));
  const groups = Object.entries(run.config).filter(([, place]) => isGroup(parts[place]));
  const listing = (entries) => pairs(entries.map(([key, value]) => [key, code(shown(value))]));
  return section(
    'Configuration',
    listing(scalars.map(([key, place]) => [key, parts[place]])),
    groups.map(([key, place]) =>
      h(
        'details',
        h('summary', key, ' ', h('span.fine', shown(parts[place].name ?? ''))),
        listing([...flatPart(`${key} ${place}`)].map(([name, value]) => [name.slice(key.length + 1), value])),
      ),
    ),
  );
}

const isGroup = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);

// --- several runs side by side ---------------------------------------------------------------------------------------

function showCompare(place) {
  const some = state.picked.map((id) => runsById.get(id));
  if (some.length < 2) return fill(place, backButton(), h('p.note', 'Tick two or more runs in the table to compare them.'));
  if (some.some((run) => !byId(`run-${run.place}`))) return fill(place, h('p.note', 'The page is still being read.'));
  const opened = some.map((run) => [run, detailOf(run)]);
  return fill(
    place,
    h('div.steps', backButton()),
    h('h2', { tabindex: -1 }, `${count(some.length, 'run')} side by side`),
    section('Metrics', sideBySide(some)),
    section('What differs', differences(some)),
    curves(opened),
    figures(opened),
  );
}

/** The head of a run's column: its colour, and its size beside all numbers. */
const columnHeads = (some) =>
  some.map((run, i) =>
    head([
      h('span.swatch', { '--colour': colourOf(i) }, runLink(run)),
      h('span.under', facetValue(run, 'method'), ' ', sizeMark(option(run, 'size'))),
    ]),
  );

function differences(some) {
  const keys = differingKeys(some).filter((key) => key !== 'size');
  const row = (key, cells) =>
    h(
      'tr',
      { class: freeKeys.has(key) && 'free' },
      h('th', { scope: 'row' }, key),
      cells.map((cell) => td(cell)),
    );
  const missing = () => h('span.fine', { title: 'the run has no such key' }, DASH);
  const setting = (key) =>
    row(
      key,
      some.map((run) => (flatConfig(run).has(key) ? shown(flatConfig(run).get(key)) : missing())),
    );
  return plainTable(
    [head('key'), ...columnHeads(some)],
    [
      row(
        'status',
        some.map((run) => statusMark(run.status)),
      ),
      ...keys.filter((key) => !freeKeys.has(key)).map(setting),
      ...keys.filter((key) => freeKeys.has(key)).map(setting),
    ],
    { class: 'settings-of' },
  );
}

function sideBySide(some) {
  const metrics = metricsOf(some);
  const rows = metrics.map((metric) => {
    const found = some.map((run) => run.rows.get(metric));
    const ends = found.flatMap((row) => (row ? [row.value, row.low, row.high] : [])).filter(isNumber);
    const entries = found.map((row, i) => ({ ...row, colour: colourOf(i) }));
    return h(
      'tr',
      h('th', { scope: 'row' }, metricName(metric)),
      found.map((row) => td(row ? withUnit(row.value, row.unit) : DASH, { title: row && saying(row) })),
      td(new Set(ends).size > 1 && intervals(entries, [Math.min(...ends), Math.max(...ends)]), { class: 'picture' }),
    );
  });
  return plainTable([head('metric'), ...columnHeads(some), head('95 % intervals')], rows, { class: 'side' });
}
