{{- define "crew.name" -}}
{{- $name := .Values.crew.name | default .Release.Name -}}
{{- if gt (len $name) 52 -}}
{{- fail (printf "crew.name: %q is longer than 52 characters. Set crew.name to a shorter one." $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{- /* Those of crew.labels, and the chart's own, which win. */ -}}
{{- define "crew.labels" -}}
{{- $chart := printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" -}}
{{- $own := dict "helm.sh/chart" $chart "app.kubernetes.io/version" .Chart.AppVersion -}}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service -}}
{{- $_ := set $own "app.kubernetes.io/part-of" "watchbill" -}}
{{- $_ := set $own "app.kubernetes.io/name" (include "crew.name" .) -}}
{{- $_ := set $own "app.kubernetes.io/instance" .Release.Name -}}
{{- merge $own .Values.crew.labels | toYaml -}}
{{- end -}}

{{- /* Names of the Secrets that the crew refers to, as a list in JSON, in the order of their letters. */ -}}
{{- define "crew.secrets" -}}
{{- $workers := .Values.workers | default dict -}}
{{- $names := list (dig "redisSecretRef" "name" "watchbill-redis" $workers) -}}
{{- range $workers.envFrom -}}
{{- with .secretRef -}}{{- $names = append $names .name -}}{{- end -}}
{{- end -}}
{{- range .Values.delivery -}}
{{- range . -}}
{{- if kindIs "map" . -}}
{{- range . -}}
{{- if kindIs "map" . -}}{{- with .secretKeyRef -}}{{- $names = append $names .name -}}{{- end -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $names | uniq | sortAlpha | toJson -}}
{{- end -}}
