/** Check results as people read them, and the one number that a script reads. */

import { EXIT, type ExitCode } from '../io.ts';
import type { Style } from '../style.ts';
import type { CheckResult } from './check.ts';

/** Indented reason and next command of one result. */
export function formatDetails({ cause, hint }: CheckResult, style: Style): string {
  const lines = [
    cause !== undefined && cause !== '' && `    ${style.dim('cause:')} ${cause}`,
    hint !== undefined && `    ${style.dim('try:  ')} ${hint}`,
  ].filter((line) => line !== false);
  return lines.map((line) => `${line}\n`).join('');
}

export function formatResult(result: CheckResult, style: Style): string {
  const { level, text, code } = result;
  const mark = level === 'good' ? '' : `  ${style.dim(`[${code}]`)}`;
  return `${style.symbol(level)} ${text}${mark}\n${formatDetails(result, style)}`;
}

/** By category, each with a title; `short` shows only what is not good. */
export function formatResults(
  results: readonly CheckResult[],
  style: Style,
  short: boolean,
): string {
  const shown = short ? results.filter(({ level }) => level !== 'good') : results;
  let text = '';
  let category = '';
  for (const result of shown) {
    if (result.category !== category && !short) {
      category = result.category;
      text += `${text === '' ? '' : '\n'}${style.bold(category)}\n${'-'.repeat(category.length)}\n`;
    }
    text += formatResult(result, style);
  }
  return text;
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

/** `1 problem, 2 warnings in 12 checks`. */
export function formatSummary(results: readonly CheckResult[], style: Style): string {
  const of = (level: CheckResult['level']): number =>
    results.filter((result) => result.level === level).length;
  const parts = [
    of('problem') > 0 && style.paint('problem', count(of('problem'), 'problem')),
    of('warning') > 0 && style.paint('warning', count(of('warning'), 'warning')),
    of('unknown') > 0 && style.paint('unknown', `${of('unknown')} not found out`),
  ].filter((part) => part !== false);
  const said = parts.length === 0 ? style.paint('good', 'no problems') : parts.join(', ');
  return `${said} in ${count(results.length, 'check')}\n`;
}

/** Warnings do not fail; what could not be found out does, unless something worse was found. */
export function exitCodeOf(results: readonly CheckResult[]): ExitCode {
  if (results.some(({ level }) => level === 'problem')) return EXIT.problem;
  return results.some(({ level }) => level === 'unknown') ? EXIT.unknown : EXIT.good;
}
