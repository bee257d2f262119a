/** The README's configuration table, made from the rows, so that it cannot say anything else. */

import type { Rows } from './rows.ts';
import { CONFIGURATION } from './settings.ts';

const TITLES = { node: 'Node proxy', waypoint: 'Waypoint', controller: 'Controller' } as const;

function formatRows(title: string, rows: Rows): string {
  const lines = Object.values(rows).map(({ env, default: fallback, unit, doc }) => {
    const shown =
      fallback === undefined ? 'required' : fallback === '' ? 'none' : `\`${fallback}\``;
    const measure = unit === undefined ? '' : ` (${unit})`;
    return `| \`${env}\` | ${shown}${measure} | ${doc} |`;
  });
  return [`| ${title} | default | meaning |`, '| --- | --- | --- |', ...lines].join('\n');
}

/** Markdown, one table per program. */
export function formatConfigurationTable(): string {
  return (['node', 'waypoint', 'controller'] as const)
    .map((name) => formatRows(TITLES[name], CONFIGURATION[name]))
    .join('\n\n');
}
