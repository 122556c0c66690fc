// Grafana's own fonts: texts are measured before they are drawn, and another font is wider.
import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';
import '@fontsource/roboto-mono/400.css';
import { createTheme, dateTime, ThemeContext, type DataFrame, type GrafanaTheme2, type TimeRange } from '@grafana/data';
import { initPluginTranslations } from '@grafana/i18n';
import { GlobalStyles, Icon, PanelChrome, PortalContainer } from '@grafana/ui';
import { createRoot } from 'react-dom/client';
import { DRAWINGS, emptyMessage, hasData } from './drawings';
import { prepared, registerWhatGrafanaRegisters } from './frames';
import { framesOf } from './prometheus';
import type { Panel, Task } from './task';
import { chosen, interpolated, type Chosen } from './variables';

// Grafana's grid: 24 columns, cells 30 high, 8 between them, 16 around.
const COLUMNS = 24;
const CELL = 30;
const GAP = 8;
const MARGIN = 16;

interface Ready {
  panel: Panel;
  frames: DataFrame[];
  fault: string;
  box: { left: number; top: number; width: number; height: number };
}

function boxOf(panel: Panel, width: number): Ready['box'] {
  const { x, y, w, h } = panel.gridPos!;
  const column = (width - 2 * MARGIN - GAP * (COLUMNS - 1)) / COLUMNS;
  return {
    left: MARGIN + x * (column + GAP),
    top: y * (CELL + GAP),
    width: w * column + (w - 1) * GAP,
    height: h * CELL + (h - 1) * GAP,
  };
}

async function ready(task: Task, panel: Panel, variables: Chosen[], range: TimeRange, theme: GrafanaTheme2): Promise<Ready> {
  const box = boxOf(panel, window.innerWidth);
  try {
    const frames = await framesOf(task, panel, variables, range, box.width);
    return { panel, frames: await prepared(frames, panel, theme), fault: '', box };
  } catch (error) {
    return { panel, frames: [], fault: String(error), box };
  }
}

function Header({ task, variables, theme }: { task: Task; variables: Chosen[]; theme: GrafanaTheme2 }) {
  const pill = {
    border: `1px solid ${theme.colors.border.medium}`,
    background: theme.components.input.background,
    borderRadius: 2,
    padding: '5px 8px',
  };
  const minutes = (at: number) => new Date(at).toISOString().slice(0, 16).replace('T', ' ');
  return (
    <div style={{ display: 'flex', gap: 16, alignItems: 'center', padding: `12px ${MARGIN}px`, flexWrap: 'wrap' }}>
      <span style={{ fontSize: 18, fontWeight: 500 }}>{task.dashboard.title}</span>
      {variables.map(({ name, label, text }) => (
        <span key={name} style={{ display: 'flex', gap: 6, alignItems: 'center' }}>
          <span style={{ fontSize: 12, fontWeight: 500 }}>{label}</span>
          <span style={pill}>{text}</span>
        </span>
      ))}
      <span style={{ flex: 1 }} />
      {(task.dashboard.links ?? []).map(({ title }) => (
        <span key={title} style={{ ...pill, border: 'none' }}>
          <Icon name="external-link-alt" size="sm" /> {title}
        </span>
      ))}
      <span style={pill}>
        {minutes(task.from)} to {minutes(task.to).slice(11)} UTC
      </span>
    </div>
  );
}

function Heading({ panel, box }: Ready) {
  return (
    <div style={{ position: 'absolute', ...box, display: 'flex', alignItems: 'center', gap: 6, fontWeight: 500 }}>
      <Icon name="angle-down" /> {panel.title}
    </div>
  );
}

function Framed({ panel, frames, fault, box, task, variables, theme, range }: Ready & Whole) {
  const draw = DRAWINGS[panel.type];
  const message = fault || (draw ? !hasData(frames) && emptyMessage(panel) : `not drawn: ${panel.type}`);
  const links = (panel.links ?? []).map(({ title }) => <Icon key={title} name="external-link-alt" size="sm" title={title} />);
  return (
    <div style={{ position: 'absolute', ...box }} data-panel={panel.title} data-fault={fault}>
      <PanelChrome
        title={interpolated(panel.title ?? '', variables, {})}
        description={panel.description}
        titleItems={links.length ? links[0] : undefined}
        width={box.width}
        height={box.height}
        padding={panel.type === 'table' ? 'none' : 'md'}
      >
        {(width, height) =>
          message ? (
            <div style={{ height, display: 'grid', placeItems: 'center', textAlign: 'center', fontSize: panel.type === 'stat' ? 22 : 15 }}>
              {message}
            </div>
          ) : (
            draw!({ panel, frames, theme, range, width, height })
          )
        }
      </PanelChrome>
    </div>
  );
}

interface Whole {
  task: Task;
  variables: Chosen[];
  theme: GrafanaTheme2;
  range: TimeRange;
}

async function main(task: Task): Promise<void> {
  await initPluginTranslations('grafana');
  await Promise.all(['400 14px Inter', '500 14px Inter', '400 14px "Roboto Mono"'].map((font) => document.fonts.load(font)));
  registerWhatGrafanaRegisters();
  const theme = createTheme({ colors: { mode: task.theme } });
  const range: TimeRange = {
    from: dateTime(task.from),
    to: dateTime(task.to),
    raw: { from: dateTime(task.from), to: dateTime(task.to) },
  };
  const variables = await chosen(task);
  const panels = (task.dashboard.panels ?? []) as Panel[];
  const all = await Promise.all(panels.map((panel) => ready(task, panel, variables, range, theme)));
  const bottom = Math.max(...all.map(({ box }) => box.top + box.height));
  createRoot(document.getElementById('root')!).render(
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <PortalContainer />
      <Header task={task} variables={variables} theme={theme} />
      <div style={{ position: 'relative', height: bottom + MARGIN }}>
        {all.map((each) =>
          each.panel.type === 'row' ? (
            <Heading key={each.panel.id} {...each} />
          ) : (
            <Framed key={each.panel.id} {...each} task={task} variables={variables} theme={theme} range={range} />
          )
        )}
      </div>
    </ThemeContext.Provider>
  );
  // Charts measure their text and draw in the frames after their mounting.
  setTimeout(() => document.body.setAttribute('data-drawn', 'yes'), 700);
}

main(window.task).catch((error) => document.body.setAttribute('data-drawn', String(error)));
