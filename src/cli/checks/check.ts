/**
 * A check: one question with a stable code, and its answer in words that say what, why and what to do next. Checks are
 * pure functions of what was surveyed; the last lines of `status` and all of `check` come from the same ones.
 */

import type { Level } from '../style.ts';

export interface CheckResult {
  /** `MC` and three digits; never used again for something else. */
  readonly code: string;
  readonly category: string;
  readonly level: Level;
  readonly text: string;
  readonly cause?: string | undefined;
  /** The next command. */
  readonly hint?: string | undefined;
}

/** The answer of one check without what is the same for all of its answers. */
export type Finding = Omit<CheckResult, 'code' | 'category'>;

export function good(text: string): Finding {
  return { level: 'good', text };
}

export function problem(text: string, cause?: string, hint?: string): Finding {
  return { level: 'problem', text, cause, hint };
}

export function warning(text: string, cause?: string, hint?: string): Finding {
  return { level: 'warning', text, cause, hint };
}

export function unknown(text: string, cause?: string, hint?: string): Finding {
  return { level: 'unknown', text, cause, hint };
}

export interface Check<T> {
  readonly code: string;
  readonly category: string;
  /** No finding: the question does not arise. */
  readonly run: (subject: T) => readonly Finding[];
}

export function runChecks<T>(checks: readonly Check<T>[], subject: T): CheckResult[] {
  return checks.flatMap(({ code, category, run }) =>
    run(subject).map((finding) => ({ code, category, ...finding })),
  );
}
