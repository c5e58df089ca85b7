"""Image labels from VOC's Annotations/*.xml."""

from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers.expat import ExpatError, ParserCreate

from pplfast.arrays import UInt8Array
from pplfast.data.classes import ClassList
from pplfast.data.labels import Fault
from pplfast.data.listing import ListEntry, Listing, Scan
from pplfast.data.other_names import OtherNames
from pplfast.data.problems import Problem
from pplfast.reading import open_regular, shortened


class XmlLabels:
    """VOC's XML, one file per image. Objects of other classes are ignored: VOC is often used with a few of its 20."""

    layout = "XML of Annotations"

    def __init__(self, scan: Scan, folder: Path, classes: ClassList, difficult: bool):
        self.scan, self.folder, self.classes, self.difficult = scan, folder, classes, difficult
        self.columns = {name: column for column, name in enumerate(classes.names)}
        self.others = OtherNames(folder, classes.names)

    def listing(self) -> Listing:
        return self.scan.listing

    def fill(self, row: UInt8Array, entry: ListEntry) -> None:
        path = self.folder / f"{entry.id}.xml"
        try:
            with open_regular(path) as file:
                tree = parse_xml(file.read())
        except FileNotFoundError:
            raise Fault(
                "no-labels", path, "no such file, so the image has no labels; add it, or take the image off the list"
            ) from None
        except OSError as error:
            raise Fault("bad-labels", path, f"cannot be read ({error.strerror}); restore it") from None
        except (ExpatError, ValueError, LookupError, TypeError) as error:  # the last three: its encoding
            raise Fault("bad-labels", path, f"not readable as XML ({shortened(str(error))}); restore it") from None
        others = set()
        for thing in tree.findall("object"):
            if not self.difficult and (thing.findtext("difficult") or "").strip() == "1":
                continue
            name = (thing.findtext("name") or "").strip()
            if name in self.columns:
                row[self.columns[name]] = 1
            else:
                others.add(name)
        self.others.add(others)

    def remarks(self, labels: UInt8Array) -> list[Problem]:
        return self.others.remarks(labels)


def parse_xml(data: bytes) -> Element:
    """The root of an XML file. ExpatError where it is damaged; ValueError, LookupError or TypeError for its encoding,
    and ValueError where it declares entities: annotations need none, and a few lines of them make gigabytes."""
    builder, parser = TreeBuilder(), ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler, parser.EntityDeclHandler = builder.data, _refuse_entity
    parser.Parse(data, True)
    return builder.close()


def _refuse_entity(name: str, *_: Any) -> None:
    raise ValueError(f"declares the entity {name}")
