// A client in Go: see ../cuts.py.
package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
)

type order struct {
	URL      string `json:"url"`
	Encoding string `json:"encoding"`
	Cut      int    `json:"cut"`
}

func fetch(one order) (string, error) {
	request, err := http.NewRequest("GET", one.URL, nil)
	if err != nil {
		return "", err
	}
	if one.Encoding != "gzip" { // which the transport asks for and decodes by itself
		request.Header.Set("Accept-Encoding", one.Encoding)
	}
	request.Header.Set("X-Cut", strconv.Itoa(one.Cut))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", err
	}
	if response.StatusCode != 200 {
		return "", fmt.Errorf("status %d", response.StatusCode)
	}
	return fmt.Sprintf("%x", sha256.Sum256(body)), nil
}

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var one order
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			panic(err)
		}
		found := map[string]string{}
		if hash, err := fetch(one); err != nil {
			found["error"] = err.Error()
		} else {
			found["sha256"] = hash
		}
		encoded, _ := json.Marshal(found)
		fmt.Println(string(encoded))
	}
}
