/**
 * The logger interface that components receive. Field names are fixed words (`source`, `destination`,
 * `identity`, `flag`, `error`); values come from outside and are escaped by the implementation (telemetry/).
 */

export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** A logger that adds `fields` to every line. */
  child(fields: LogFields): Logger;
}

/** Drops everything: for tests that do not look at the log. */
export function createNullLogger(): Logger {
  const drop = (): void => {};
  const logger: Logger = { debug: drop, info: drop, warn: drop, error: drop, child: () => logger };
  return logger;
}
