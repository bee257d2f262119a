/** What `-o` may say. Apart from what writes it, so that help needs none of that. */

export const OUTPUT_FORMATS = ['table', 'json', 'yaml'] as const;
export type OutputFormat = (typeof OUTPUT_FORMATS)[number];

export const LIST_FORMATS = ['table', 'wide', 'json', 'yaml', 'name'] as const;
export type ListFormat = (typeof LIST_FORMATS)[number];

/** Data for a program, in which nothing is drawn. */
export function isStructured(format: string): format is 'json' | 'yaml' {
  return format === 'json' || format === 'yaml';
}
