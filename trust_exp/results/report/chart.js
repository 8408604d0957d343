'use strict';

// --- elements. Texts of runs reach the page through here only: as text nodes and attributes, never as markup. -------

const byId = (id) => document.getElementById(id);

/** h('p.note', { title }, ...children): an element with its classes, its attributes (if any) and what is in it. */
const element =
  (create) =>
  (selector, ...rest) => {
    const [name, ...classes] = selector.split('.');
    const made = create(name);
    made.classList.add(...classes);
    const [given, ...children] = rest[0]?.constructor === Object ? rest : [{}, ...rest];
    for (const [key, value] of Object.entries(given)) {
      if (value === undefined || value === null || value === false) continue;
      if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
      else if (key.startsWith('--')) made.style.setProperty(key, value);
      else made.setAttribute(key, value === true ? '' : value);
    }
    made.append(...present(children));
    return made;
  };
const present = (children) =>
  children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
const fill = (place, ...children) => place.replaceChildren(...present(children));
const h = element((name) => document.createElement(name));
const s = element((name) => document.createElementNS('http://www.w3.org/2000/svg', name));

// --- numbers ---------------------------------------------------------------------------------------------------------

const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);

function plainNumber(value) {
  if (!isNumber(value)) return String(value);
  if (value !== 0 && (Math.abs(value) >= 1e6 || Math.abs(value) < 1e-4))
    return value.toExponential(2).replace('e+', 'e');
  return Number.isInteger(value) ? value.toLocaleString('en') : String(Number(value.toPrecision(4)));
}

function ticksOf(low, high, log) {
  if (log) return logTicks(low, high);
  const most = (high - low) / 3; // so that there are three ticks or more
  const power = 10 ** Math.floor(Math.log10(most));
  const step = [5, 2, 1].find((factor) => factor * power <= most * 1.0001) * power;
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(12)),
  );
}

function logTicks(low, high) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const every = Math.ceil((last - first) / 5);
  const powers = Array.from({ length: Math.floor((last - first) / every) + 1 }, (_, i) => first + i * every);
  const ticks = powers
    .flatMap((power) => (every > 1 || last - first > 3 ? [1] : [1, 2, 5]).map((factor) => factor * 10 ** power))
    .filter((tick) => tick >= low && tick <= high);
  return ticks.length > 1 ? ticks : ticksOf(low, high, false);
}

/** The ends of all values, widened so that no line lies on the frame. */
function rangeOf(values, log) {
  const low = Math.max(-1e300, Math.min(...values)),
    high = Math.min(1e300, Math.max(...values));
  if (log) {
    const room = Math.max((high / low) ** 0.06, 1.01);
    return [low / room, high * room];
  }
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

const spansDecades = (values) => values.every((value) => value > 0) && Math.max(...values) / Math.min(...values) >= 100;

// --- a line chart ----------------------------------------------------------------------------------------------------

const HEIGHT = 190,
  EDGE = { top: 8, right: 12, bottom: 26, left: 48 };

/**
 * A chart of lines over steps with axes, a readout for pointer and arrow keys, and a log scale where that helps.
 * lines: [{ label, steps, values, colour }], each with finite values in the order of their steps.
 */
function chart(title, lines, note) {
  const values = lines.flatMap((line) => line.values);
  const readout = h('output.readout');
  const plot = h('div.plot');
  let log = spansDecades(values);
  const scale = h('button', { type: 'button', class: 'quiet scale' });
  const show = () => {
    scale.textContent = log ? 'log' : 'linear';
    scale.title = `the scale is ${log ? 'logarithmic' : 'linear'}; change it`;
    plot.replaceChildren(drawing(title, lines, log, readout, plot.clientWidth || 420));
  };
  scale.addEventListener('click', () => {
    log = !log;
    show();
  });
  new ResizeObserver(([entry], observer) => {
    if (!plot.isConnected) observer.disconnect();
    else if (entry.contentRect.width && plot.dataset.width !== String(entry.contentRect.width)) {
      plot.dataset.width = entry.contentRect.width;
      show();
    }
  }).observe(plot);
  return h(
    'figure.chart',
    h('figcaption', h('strong', title), readout, values.every((value) => value > 0) && scale),
    plot,
    note && h('p.fine', note),
  );
}

function drawing(title, lines, log, readout, width) {
  const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
  const steps = lines.flatMap((line) => line.steps);
  const [first, last] = [Math.min(...steps), Math.max(...steps)];
  const [low, high] = rangeOf(
    lines.flatMap((line) => line.values),
    log,
  );
  const bend = log ? Math.log10 : (value) => value;
  const x = (step) => EDGE.left + (last > first ? (step - first) / (last - first) : 0.5) * inner.width;
  const y = (value) => EDGE.top + (1 - (bend(value) - bend(low)) / (bend(high) - bend(low))) * inner.height;
  const floor = EDGE.top + inner.height;
  const across = last > first ? ticksOf(first, last, false).filter(Number.isInteger) : [first];
  const cursor = s('g.cursor');
  const picture = s(
    'svg',
    { viewBox: `0 0 ${width} ${HEIGHT}`, role: 'img', tabindex: 0, 'aria-label': summary(title, lines) },
    ticksOf(low, high, log).map((tick) =>
      s(
        'g',
        s('line.grid', { x1: EDGE.left, x2: width - EDGE.right, y1: y(tick), y2: y(tick) }),
        s('text', { x: EDGE.left - 8, y: y(tick) + 4, 'text-anchor': 'end' }, plainNumber(tick)),
      ),
    ),
    across.map((tick) => s('text', { x: x(tick), y: floor + 17, 'text-anchor': 'middle' }, plainNumber(tick))),
    s('line.axis', { x1: EDGE.left, x2: width - EDGE.right, y1: floor, y2: floor }),
    lines.map((line) => lineOf(line, x, y)),
    cursor,
  );
  follow(picture, lines, { x, y, floor, first, last, readout, cursor });
  return picture;
}

function lineOf({ steps, values, colour }, x, y) {
  if (steps.length === 1) return s('circle.dot', { '--colour': colour, cx: x(steps[0]), cy: y(values[0]), r: 3 });
  const points = steps.map((step, i) => `${x(step).toFixed(1)},${y(values[i]).toFixed(1)}`);
  return s('polyline.line', { '--colour': colour, points: points.join(' ') });
}

/** The chart in words, for those who do not see it. */
function summary(title, lines) {
  const told = lines.map(({ label, values }) => {
    const [end, least, greatest] = [values.at(-1), Math.min(...values), Math.max(...values)].map(plainNumber);
    return `${label} ends at ${end} (least ${least}, greatest ${greatest})`;
  });
  return `${title}: ${told.join('; ')}`;
}

/** The number of the point nearest to a step. */
function nearest(steps, wanted) {
  let low = 0,
    high = steps.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (steps[middle] > wanted) high = middle;
    else low = middle;
  }
  return Math.abs(steps[high] - wanted) < Math.abs(steps[low] - wanted) ? high : low;
}

/** Say the values at the step under the pointer, or at the one that the arrow keys have reached. */
function follow(picture, lines, { x, y, floor, first, last, readout, cursor }) {
  const longest = lines.reduce((a, b) => (b.steps.length > a.steps.length ? b : a)).steps;
  let place = longest.length - 1;
  const mark = () => {
    const at = lines.map(({ steps }) => nearest(steps, longest[place]));
    cursor.replaceChildren(
      s('line', { x1: x(longest[place]), x2: x(longest[place]), y1: EDGE.top, y2: floor }),
      ...lines.map(({ steps, values, colour }, i) =>
        s('circle.dot', { '--colour': colour, cx: x(steps[at[i]]), cy: y(values[at[i]]), r: 3.5 }),
      ),
    );
    readout.replaceChildren(
      `step ${plainNumber(longest[place])}`,
      ...lines.map(({ values, colour }, i) => h('span.swatch', { '--colour': colour }, plainNumber(values[at[i]]))),
    );
  };
  const leave = () => {
    cursor.replaceChildren();
    readout.replaceChildren();
  };
  picture.addEventListener('pointermove', (event) => {
    const box = picture.getBoundingClientRect();
    const share =
      (((event.clientX - box.left) / box.width) * picture.viewBox.baseVal.width - x(first)) / (x(last) - x(first) || 1);
    place = nearest(longest, first + share * (last - first));
    mark();
  });
  picture.addEventListener('pointerleave', leave);
  picture.addEventListener('focus', mark);
  picture.addEventListener('blur', leave);
  picture.addEventListener('keydown', (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (move === undefined) return;
    event.preventDefault();
    place = Math.max(0, Math.min(longest.length - 1, place + move));
    mark();
  });
}

// --- intervals side by side ------------------------------------------------------------------------------------------

/** Values with their intervals on one scale, one line each: [{ value, low, high, colour }]. */
function intervals(entries, [from, to]) {
  const width = 180,
    row = 11;
  const x = (value) => 6 + ((value - from) / (to - from || 1)) * (width - 12);
  return s(
    'svg.intervals',
    {
      viewBox: `0 0 ${width} ${entries.length * row + 4}`,
      width,
      height: entries.length * row + 4,
      'aria-hidden': true,
    },
    entries.map(
      ({ value, low, high, colour }, i) =>
        isNumber(value) &&
        s(
          'g',
          { '--colour': colour },
          isNumber(low) &&
            isNumber(high) &&
            s('line.whisker', { x1: x(low), x2: x(high), y1: i * row + 7, y2: i * row + 7 }),
          s('circle.dot', { cx: x(value), cy: i * row + 7, r: 3 }),
        ),
    ),
  );
}
