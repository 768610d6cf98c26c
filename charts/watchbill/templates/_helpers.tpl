{{- define "watchbill.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- /* Of what belongs to no namespace: two releases of a name can be in one cluster. */ -}}
{{- define "watchbill.clusterName" -}}
{{- printf "%s-%s" (include "watchbill.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "watchbill.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: watchbill
app.kubernetes.io/name: watchbill
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "watchbill.operatorSelector" -}}
app.kubernetes.io/name: watchbill
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "watchbill.valkeySelector" -}}
app.kubernetes.io/name: watchbill
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: valkey
{{- end -}}

{{- /* What every worker's pod carries, whatever its crew. */ -}}
{{- define "watchbill.workerSelector" -}}
matchExpressions:
  - {key: watchbill.dev/crew, operator: Exists}
{{- end -}}

{{- define "watchbill.valkeyName" -}}
{{- include "watchbill.fullname" . }}-valkey
{{- end -}}

{{- /* A Secret that the chart makes has the name that crews look for, so that those beside the operator need no copy. */ -}}
{{- define "watchbill.redisSecret" -}}
{{- if or .Values.valkey.enabled .Values.redis.url -}}
watchbill-redis
{{- else -}}
{{- .Values.redis.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "watchbill.redisKey" -}}
{{- if or .Values.valkey.enabled .Values.redis.url -}}
url
{{- else -}}
{{- .Values.redis.key -}}
{{- end -}}
{{- end -}}

{{- /* PSS restricted, of a container. */ -}}
{{- define "watchbill.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* What the operator may do in a namespace that it watches, and no more. */ -}}
{{- define "watchbill.rules" -}}
- apiGroups: [watchbill.dev]
  resources: [crews, heartbeats]
  verbs: [list, watch]
- apiGroups: [watchbill.dev]  # whether a crew is really gone, before what is stored of it is removed
  resources: [crews]
  verbs: [get]
- apiGroups: [watchbill.dev]
  resources: [crews/status, heartbeats/status]
  verbs: [patch]
- apiGroups: [watchbill.dev]  # to own what it makes, where the cluster asks for that (OwnerReferencesPermissionEnforcement)
  resources: [crews/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, create, patch]
- apiGroups: [""]  # only those that a crew names: Secrets are never listed
  resources: [secrets]
  verbs: [get]
{{- end -}}
