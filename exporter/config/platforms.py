"""The Seven Bridges platforms: what a person needs to find the API and a token."""

from typing import Final, NamedTuple


class Platform(NamedTuple):
    """One platform.

    Attributes:
        name: its short name, by which an account without a name is called.
        title: its name in words.
        endpoint: the API's base URL.
        web: where people log in.
        token_page: where they copy their token; empty if the platform does not document it (menu *Developer*).
    """

    name: str
    title: str
    endpoint: str
    web: str
    token_page: str = ""

    @property
    def where_token_is(self) -> str:
        """Where to copy the token, in words."""
        return self.token_page or f"menu Developer of {self.web}"


PLATFORMS: Final = (
    Platform(
        "cavatica",
        "CAVATICA",
        "https://cavatica-api.sbgenomics.com/v2",
        "https://cavatica.sbgenomics.com",
        "https://cavatica.sbgenomics.com/developer",
    ),
    Platform(
        "cgc",
        "Cancer Genomics Cloud",
        "https://cgc-api.sbgenomics.com/v2",
        "https://cgc.sbgenomics.com",
        "https://cgc.sbgenomics.com/developer",
    ),
    Platform(
        "f4c",
        "BioData Catalyst",
        "https://api.sb.biodatacatalyst.nhlbi.nih.gov/v2",
        "https://platform.sb.biodatacatalyst.nhlbi.nih.gov",
    ),
    Platform(
        "aws-us",
        "Seven Bridges US",
        "https://api.sbgenomics.com/v2",
        "https://igor.sbgenomics.com",
        "https://igor.sbgenomics.com/developer",
    ),
    Platform("aws-eu", "Seven Bridges EU", "https://eu-api.sbgenomics.com/v2", "https://eu.sbgenomics.com"),
    Platform("ali-cn", "Seven Bridges China", "https://api.sevenbridges.cn/v2", "https://platform.sevenbridges.cn"),
)
"""The platforms, in the order in which `init` lists them."""
