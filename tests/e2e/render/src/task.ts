import type { Dashboard, Panel as SchemaPanel } from '@grafana/schema';

/** What is to be drawn; put into the page by shoot.py before the page's own script runs. */
export interface Task {
  dashboard: Dashboard;
  /** The address of a Prometheus that allows this page's origin. */
  prometheus: string;
  theme: 'dark' | 'light';
  /** The time range, Unix milliseconds. */
  from: number;
  to: number;
  /** Seconds between two scrapes, for $__rate_interval. */
  scrapeInterval: number;
  /** Values of variables that are not to be at their default. */
  variables: Record<string, string>;
}

export type Panel = Omit<SchemaPanel, 'targets' | 'options'> & {
  targets?: Target[];
  // Each panel type has options of its own.
  options?: any;
};

export interface Target {
  refId: string;
  expr: string;
  format: 'time_series' | 'table' | 'heatmap';
  instant?: boolean;
  legendFormat?: string;
  interval?: string;
}

declare global {
  interface Window {
    task: Task;
  }
}
