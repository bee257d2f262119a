/** What a command may touch of its surroundings, injected so that tests look at what a user would see. */

/** What meshctl ends with. */
export const EXIT = {
  good: 0,
  /** A problem was found: a check failed, something is not as it should be. */
  problem: 1,
  /** It could not be found out: unreachable, forbidden, too slow. */
  unknown: 2,
  usage: 64,
  interrupted: 130,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

export interface CommandIo {
  /** Data, to standard output. */
  out(text: string): void;
  /** Everything else: progress, hints, errors. */
  err(text: string): void;
  /** Width of the terminal; undefined when standard output is none, and nothing is cut off. */
  readonly columns: number | undefined;
  /** Whether colours are wanted on standard output. */
  readonly color: boolean;
  /** Whether symbols beyond ASCII can be shown. */
  readonly unicode: boolean;
  readonly env: (name: string) => string | undefined;
  /** Milliseconds since the Unix epoch. */
  readonly now: () => number;
  /** Aborted by Ctrl-C. */
  readonly signal: AbortSignal;
  /** A file's text, `-` for standard input. */
  readFile(path: string): Promise<string>;
}
