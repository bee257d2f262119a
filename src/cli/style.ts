/** Colours and symbols, where the terminal has them; words where it has not. */

import { styleText } from 'node:util';

import type { CommandIo } from './io.ts';

export type Level = 'good' | 'warning' | 'problem' | 'unknown';

const SYMBOLS: Readonly<Record<Level, readonly [unicode: string, ascii: string]>> = {
  good: ['√', 'ok'],
  warning: ['‼', 'warn'],
  problem: ['×', 'FAIL'],
  unknown: ['?', '?'],
};
const COLORS = { good: 'green', warning: 'yellow', problem: 'red', unknown: 'yellow' } as const;

export interface Style {
  symbol(level: Level): string;
  paint(level: Level, text: string): string;
  bold(text: string): string;
  dim(text: string): string;
}

export function createStyle({ color, unicode }: Pick<CommandIo, 'color' | 'unicode'>): Style {
  const apply = (format: 'green' | 'yellow' | 'red' | 'bold' | 'dim', text: string): string =>
    // The decision was made: it is not for `styleText` to look at the stream again.
    color ? styleText(format, text, { validateStream: false }) : text;
  return {
    symbol: (level) => apply(COLORS[level], SYMBOLS[level][unicode ? 0 : 1]),
    paint: (level, text) => apply(COLORS[level], text),
    bold: (text) => apply('bold', text),
    dim: (text) => apply('dim', text),
  };
}
