
'use strict';
// Without this script everything is there and visible; it adds sorting and the sliders.
(() => {
  const collator = new Intl.Collator('en', { numeric: true, sensitivity: 'base' });

  // What a row is sorted by in a column: a number, a text, or nothing.
  const key = (row, column) => {
    const cell = row.cells[column];
    if (!cell) return null;
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    return cell.tagName === 'TH' ? cell.firstElementChild.textContent : null;
  };

  const compare = (left, right) =>
    typeof left === 'number' && typeof right === 'number' ? left - right : collator.compare(left, right);

  for (const table of document.querySelectorAll('table.sortable')) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const headers = [...table.querySelectorAll('thead th[data-column]')];
    const told = table.closest('.table').querySelector('.told');
    const sort = (header, direction) => {
      for (const other of headers) other.setAttribute('aria-sort', 'none');
      const column = Number(header.dataset.column);
      let rows = original;
      if (direction !== 'none') {
        header.setAttribute('aria-sort', direction);
        const sign = direction === 'ascending' ? 1 : -1;
        const rank = (row) => (row.classList.contains('summary') ? 2 : key(row, column) === null ? 1 : 0);
        rows = [...original].sort((left, right) => {
          const ranks = rank(left) - rank(right);
          return ranks || rank(left) > 0 ? ranks : sign * compare(key(left, column), key(right, column));
        });
      }
      body.append(...rows);
      const name = header.firstElementChild.textContent.replace(/\s+/g, ' ').trim();
      told.textContent = direction === 'none' ? 'in the order of the experiment' : `sorted by ${name}, ${direction}`;
    };
    for (const header of headers) {
      const button = document.createElement('button');
      button.type = 'button';
      button.append(...header.firstElementChild.childNodes);
      header.firstElementChild.replaceWith(button);
      header.setAttribute('aria-sort', 'none');
      const next = { none: 'ascending', ascending: 'descending', descending: 'none' };
      button.addEventListener('click', () => sort(header, next[header.getAttribute('aria-sort')]));
    }
  }

  // Paper shows what is folded, too.
  let folded = [];
  window.addEventListener('beforeprint', () => {
    folded = [...document.querySelectorAll('details:not([open])')];
    for (const details of folded) details.open = true;
  });
  window.addEventListener('afterprint', () => { for (const details of folded) details.open = false; });

  for (const gallery of document.querySelectorAll('.gallery')) {
    const examples = [...gallery.querySelectorAll('.example')];
    const controls = gallery.querySelector('.controls');
    const slider = controls.querySelector('input');
    const output = controls.querySelector('output');
    const show = () => {
      const chosen = Number(slider.value) - 1;
      examples.forEach((example, at) => { example.hidden = at !== chosen; });
      const label = examples[chosen].querySelector('figcaption').textContent;
      output.textContent = `${chosen + 1} of ${examples.length}: ${label}`;
      slider.setAttribute('aria-valuetext', output.textContent);
    };
    if (examples.length > 1) {
      controls.hidden = false;
      slider.addEventListener('input', show);
      show();
    }
  }
})();
