// SPDX-License-Identifier: Apache-2.0

// Renders the chart as Helm does: its template functions, its built-in objects, its merging of values. Debian has the template
// engine and sprig, which is most of Helm's rendering, but no Helm.
//
// A request a line on stdin: {"values": {…}, "name": "penstock", "namespace": "…", "kube": "v1.29.0"}; an answer a line:
// {"files": {"templates/daemonset.yaml": "…"}} or {"error": "…"}.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v2"
)

type object = map[string]interface{}

type request struct {
	Values    object
	Name      string
	Namespace string
	Kube      string
}

type files string

func (f files) Get(name string) string {
	text, _ := os.ReadFile(filepath.Join(string(f), name))
	return string(text)
}

type versions struct{}

func (versions) Has(string) bool { return false }

// JSON's types, as Helm has them: every number a float64.
func plain(value interface{}) interface{} {
	switch value := value.(type) {
	case map[interface{}]interface{}:
		made := object{}
		for key, each := range value {
			made[fmt.Sprint(key)] = plain(each)
		}
		return made
	case object:
		for key, each := range value {
			value[key] = plain(each)
		}
		return value
	case []interface{}:
		for i, each := range value {
			value[i] = plain(each)
		}
		return value
	case int:
		return float64(value)
	}
	return value
}

func fromYAML(text string) object {
	var value interface{}
	if err := yaml.Unmarshal([]byte(text), &value); err != nil {
		return object{"Error": err.Error()}
	}
	made, _ := plain(value).(object)
	return made
}

func toYAML(value interface{}) string {
	encoded, err := json.Marshal(value)
	if err != nil {
		return ""
	}
	var again interface{}
	if yaml.Unmarshal(encoded, &again) != nil {
		return ""
	}
	text, _ := yaml.Marshal(again)
	return strings.TrimSuffix(string(text), "\n")
}

func merge(under, over object) object {
	made := object{}
	for key, value := range under {
		made[key] = value
	}
	for key, value := range over {
		below, isMap := made[key].(object)
		above, alsoMap := value.(object)
		switch {
		case value == nil:
			delete(made, key)
		case isMap && alsoMap:
			made[key] = merge(below, above)
		default:
			made[key] = value
		}
	}
	return made
}

func render(chart string, asked request) (map[string]string, error) {
	all := template.New("chart").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	delete(functions, "env")
	delete(functions, "expandenv")
	functions["toYaml"] = toYAML
	functions["fromYaml"] = fromYAML
	functions["fromJson"] = func(text string) object {
		made := object{}
		if err := json.Unmarshal([]byte(text), &made); err != nil {
			made = object{"Error": err.Error()}
		}
		return made
	}
	functions["toJson"] = func(value interface{}) string { text, _ := json.Marshal(value); return string(text) }
	functions["required"] = func(why string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return value, errors.New(why)
		}
		return value, nil
	}
	functions["lookup"] = func(...string) object { return object{} }
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out bytes.Buffer
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	all.Funcs(functions)

	var names []string
	for _, pattern := range []string{"templates/*.*", "templates/*/*.*"} {
		found, _ := filepath.Glob(filepath.Join(chart, pattern))
		for _, path := range found {
			text, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			name, _ := filepath.Rel(chart, path)
			if _, err := all.New(name).Parse(string(text)); err != nil {
				return nil, err
			}
			names = append(names, name)
		}
	}

	description := object{}
	for key, value := range fromYAML(files(chart).Get("Chart.yaml")) {
		description[strings.ToUpper(key[:1])+key[1:]] = value
	}
	number := strings.SplitN(strings.TrimPrefix(asked.Kube, "v"), ".", 3)
	values := merge(fromYAML(files(chart).Get("values.yaml")), asked.Values)
	made := map[string]string{}
	for _, name := range names {
		if strings.HasPrefix(filepath.Base(name), "_") {
			continue
		}
		var out bytes.Buffer
		err := all.ExecuteTemplate(&out, name, object{
			"Values":  values,
			"Chart":   description,
			"Files":   files(chart),
			"Release": object{"Name": asked.Name, "Namespace": asked.Namespace, "Service": "Helm", "IsInstall": true, "IsUpgrade": false, "Revision": 1},
			"Capabilities": object{
				"KubeVersion": object{"Version": asked.Kube, "Major": number[0], "Minor": number[1]},
				"APIVersions": versions{},
			},
			"Template": object{"Name": description["Name"].(string) + "/" + name, "BasePath": description["Name"].(string) + "/templates"},
		})
		if err != nil {
			return nil, err
		}
		made[name] = strings.ReplaceAll(out.String(), "<no value>", "")
	}
	return made, nil
}

func main() {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<22)
	out := json.NewEncoder(os.Stdout)
	for in.Scan() {
		asked := request{Name: "penstock", Namespace: "penstock-system", Kube: "v1.29.0"}
		answer := object{}
		if err := json.Unmarshal(in.Bytes(), &asked); err != nil {
			answer["error"] = err.Error()
		} else if made, err := render(os.Args[1], asked); err != nil {
			answer["error"] = err.Error()
		} else {
			answer["files"] = made
		}
		_ = out.Encode(answer)
	}
}
