{{- /* Content of the configuration file. */}}
{{- define "sbg-exporter.config" -}}
{{- $accounts := list }}
{{- $names := list }}
{{- range .Values.accounts }}
{{- if has .name $names }}
{{- fail (printf "accounts: the name %q is used twice; give each account a different name" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- $token := include "sbg-exporter.token" (list $ .) | fromYaml }}
{{- $file := printf "/run/secrets/%s/%s" $token.name $token.key }}
{{- $account := dict "name" .name "api_endpoint" .apiEndpoint "auth_token_file" $file }}
{{- $own := dict "poll_interval" .pollInterval "rate_share" .rateShare "job_series" (ternary (int .jobSeries) nil (hasKey . "jobSeries")) }}
{{- range $key, $value := merge $own (dict "division" .division "ca_file" .caFile "proxy" .proxy "allow_plain_http" .allowPlainHttp) }}
{{- /* jobSeries may be 0, which is false in a template. */}}
{{- if or $value (kindIs "int" $value) }}
{{- $account = set $account $key $value }}
{{- end }}
{{- end }}
{{- $accounts = append $accounts $account }}
{{- end }}
{{- $settings := deepCopy (default dict .Values.settings) }}
{{- if hasKey $settings "job_series" }}
{{- $settings = set $settings "job_series" (int $settings.job_series) }}
{{- end }}
{{- with .Values.webConfig }}
{{- if .secretName }}
{{- $settings = set $settings "web_config_file" (printf "/run/web-config/%s" .key) }}
{{- end }}
{{- end }}
{{- toToml (merge (dict "state_file" "/var/lib/sbg-exporter/state.db" "accounts" $accounts) $settings) }}
{{- end }}

{{- /* Secret and key of an account's token: (list . account). */}}
{{- define "sbg-exporter.token" -}}
{{- $account := index . 1 }}
{{- $token := $account.tokenSecret | default dict }}
name: {{ $token.name | default (index . 0).Values.existingSecret | quote }}
key: {{ $token.key | default (printf "%s.token" $account.name) | quote }}
{{- end }}

{{- /* Secrets with tokens, which the pod mounts, as a list in JSON. */}}
{{- define "sbg-exporter.tokenSecrets" -}}
{{- $secrets := list }}
{{- if .Values.existingConfigMap }}
{{- $secrets = list .Values.existingSecret | compact }}
{{- else }}
{{- range .Values.accounts }}
{{- $secrets = append $secrets (include "sbg-exporter.token" (list $ .) | fromYaml).name | uniq }}
{{- end }}
{{- end }}
{{- toJson $secrets }}
{{- end }}
